"""One spelling for texts that read the same: what "equal text" means in verifiers, deduplication and splits.

Unicode compatibility forms are unified (NFKC: full-width digits, ligatures, composed and decomposed accents, no-break
spaces) and runs of white space become one space. Superscripts, subscripts and vulgar fractions are left alone,
because plain NFKC turns "10²" into "102" and "1½" into "11⁄2". Letter case is kept.
"""

from __future__ import annotations

import re
import unicodedata

_RAISED_OR_FRACTION = re.compile("([²³¹¼-¾⁰-₎⅐-⅟↉]+)")


def canonical_text(text: str) -> str:
    """Return `text` with compatibility forms unified, white space runs as one space, and none at the ends. Pure."""
    if text.isascii() or unicodedata.is_normalized("NFKC", text):  # as most texts are
        return " ".join(text.split())
    parts = _RAISED_OR_FRACTION.split(text)
    parts[::2] = [unicodedata.normalize("NFKC", part) for part in parts[::2]]
    return " ".join("".join(parts).split())


def has_raised_or_fraction(text: str) -> bool:
    """Whether `text` holds a superscript, a subscript or a one-character fraction such as ½."""
    return _RAISED_OR_FRACTION.search(text) is not None
