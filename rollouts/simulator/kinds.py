"""What a problem is, and what the simulated model knows about one after reading it.

A category makes problems from a random generator and solves problems from their text. The two halves share no state:
what `make` put into a prompt reaches `solve` through the words alone, as it would reach any model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from random import Random

from rollouts.settings import VerifierKind

NUMBER = r"(?<![\d/.])(\d{1,12})(?!\d|/|\.\d)"
"""One whole number that is no part of a fraction or a decimal. At most 12 digits: prompts come from anywhere."""
DECIMAL = r"(?<![\d/.])(\d{1,12}(?:\.\d{1,6})?)(?!\d|/|\.\d)"
"""One whole number or decimal."""
MAX_SLIPS = 6


@dataclass(frozen=True)
class Problem:
    """A prompt that can be verified."""

    text: str
    """The whole user message."""
    ground_truth: str
    """Reference answer for the verifier."""
    verifier: VerifierKind
    """Verifier that can judge it."""


@dataclass(frozen=True)
class Solution:
    """What a reader of the prompt could answer, rightly or wrongly."""

    answer: str
    """The right answer."""
    slips: tuple[str, ...]
    """Wrong answers that come from a plausible mistake, the most tempting first; each differs from `answer`."""
    lead: str
    """Line of working up to the answer it arrives at."""
    tail: str
    """The rest of that line, from the answer on."""
    difficulty: float
    """0..1, higher is harder. Follows from the size of the numbers or words alone."""

    def working(self, answer: str) -> str:
        """Return one line of working that arrives at `answer`, right or not."""
        return f"{self.lead}{answer}{self.tail}"


@dataclass(frozen=True)
class Category:
    """One family of problems."""

    name: str
    make: Callable[[Random], Problem]
    """Draw a problem. Depends on the generator's state only."""
    solve: Callable[[str], Solution | None]
    """Read a problem out of a text; `None` when the text holds none of this family. Pure."""


def distinct_slips(answer: str, *guesses: object) -> tuple[str, ...]:
    """Return up to `MAX_SLIPS` of `guesses` as text, in order, each once, without the right answer."""
    texts = dict.fromkeys(str(guess) for guess in guesses)
    return tuple(text for text in texts if text != answer)[:MAX_SLIPS]


def decimal_text(value: Fraction) -> str:
    """Write a number in decimals, without trailing zeros; six places where the expansion does not end."""
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.6f}".rstrip("0")
