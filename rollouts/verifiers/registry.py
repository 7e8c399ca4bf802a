"""The verifiers that settings and prompts may name, by kind."""

from __future__ import annotations

from rollouts.errors import ConfigError
from rollouts.verifiers import Verifier
from rollouts.verifiers.exact_match import ExactMatch
from rollouts.verifiers.math_equivalence import MathEquivalence
from rollouts.verifiers.numeric import Numeric

VERIFIERS: dict[str, type[Verifier]] = {
    "exact_match": ExactMatch,
    "numeric": Numeric,
    "math": MathEquivalence,
}
"""Class of each kind. A prompt can name these only: a dataset must never choose what code runs."""

IN_PROCESS: frozenset[str] = frozenset({"exact_match", "numeric"})
"""Kinds whose work grows with the length of the text and no faster. All others run in processes that can be killed."""


def verifier(kind: str) -> Verifier:
    """Make the verifier of a kind.

    Raises:
        ConfigError: There is no such kind.
    """
    if kind not in VERIFIERS:
        raise ConfigError(f"no verifier {kind!r}; there are {', '.join(sorted(VERIFIERS))}")
    return VERIFIERS[kind]()
