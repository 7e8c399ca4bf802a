"""Visible text: what others wrote, made safe to look at: nothing hidden, nothing that reorders or colours its neighbours.

Control characters, direction marks and letters that are drawn as nothing are written out as ⟨U+202E⟩; long texts are cut
and say by how much. Escaping for HTML is somebody else's work.
"""

from __future__ import annotations

import unicodedata


def visible_text(value: object, most: int = 500) -> str:
    """Make a text safe to look at: nothing invisible, nothing that changes its surroundings, not too long.

    Args:
        value: Text by others. Not escaped here: the template does that.
        most: Characters that are shown, at least 3; the number of those left out is said in their place.
    """
    text = str(value)
    if len(text) > most:
        tail = most // 3
        left_out = len(text) - most
        text = f"{text[: most - tail]}\n⟦ {left_out:,} characters left out ⟧\n{text[len(text) - tail :]}"
    return "".join(f"⟨U+{ord(c):04X}⟩" if _is_hidden(c) else c for c in text)


_HIDDEN_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
"""Control, format (bidi, zero width, tags), lone surrogate, private use, line and paragraph separator."""
_HIDDEN_LETTERS = {"\u034f", "\u115f", "\u1160", "\u17b4", "\u17b5", "\u2800", "\u3164", "\uffa0"}
"""Letters and marks that are drawn as nothing."""


def _is_hidden(character: str) -> bool:
    if character in "\n\t" or (character.isascii() and character.isprintable()):
        return False
    if unicodedata.category(character) in _HIDDEN_CATEGORIES or character in _HIDDEN_LETTERS:
        return True
    # Supplementary variation selectors carry hidden bytes; the sixteen basic ones belong to emoji.
    return 0xE0100 <= ord(character) <= 0xE01EF
