r"""Math: the final answer is mathematically equal to the reference answer, as math-verify and sympy decide.

The answer is the boxed or stated one (`rollouts.verifiers.answer_extraction`); math-verify's own search through the
text is not used, because it takes the 5 of "the answer is not $5$". Its settings are the strict ones it recommends
for rewards; TeX's short forms `\frac12` and `\sqrt2` are spelled out first, which those settings leave out.

Accepted on purpose: `50\%` for 50 and for 0.5 (answers to percentage questions are written either way), "x = 5" for 5,
a known unit ("10 \text{ miles}" for 10), an expression that was not evaluated ("1+1" for 2), and decimals that agree
in six places. Refused on purpose: an equality chain ("x=3=5"), of which the library would compare the last side
only, and "nan". An answer that cannot be parsed, or compared with the reference answer, is a wrong answer.

math-verify's time limits are switched off, since they need the main thread and cancel alarms that are not theirs.
Symbolic work can take for ever and hold the interpreter lock while it does, so this verifier only runs in a process
that can be killed. sympy is imported when the first answer is scored.
"""

from __future__ import annotations

import importlib.metadata
import math
import re
from functools import lru_cache
from typing import Any

from rollouts.errors import InvalidGroundTruth
from rollouts.verifiers import Score
from rollouts.verifiers.answer_extraction import bare, final_answer

_EQUALS = re.compile(r"(?<![\\<>!])=")
_LIST_SEPARATOR = re.compile(r"[,;]|\\\\|&|\b(?:and|or)\b|\\text\s*\{\s*(?:and|or)\s*\}")
_SHORT_FRACTION = re.compile(r"\\[dt]?frac\s*([0-9]|\{[^{}]*\})\s*([0-9]|\{[^{}]*\})")
_SHORT_ROOT = re.compile(r"\\sqrt\s*([0-9])")


class MathEquivalence:
    """1.0 when the final answer equals the reference answer, else 0.0. Run it in a process that can be killed."""

    kind = "math"
    version = f"1+math-verify-{importlib.metadata.version('math-verify')}"
    reward_range = (0.0, 1.0)

    def check(self, ground_truth: Any) -> None:
        """Accept a finite number or a non-empty string. Cheap: whether it can be parsed shows when it is used.

        Raises:
            InvalidGroundTruth: It is anything else.
        """
        _reference_text(ground_truth)

    def score(self, text: str, ground_truth: Any) -> Score:
        """Compare the final answer of `text` with the reference answer. May never return.

        Raises:
            InvalidGroundTruth: The reference answer cannot be parsed.
        """
        reference = _parsed_reference(_reference_text(ground_truth))
        if reference is None:
            raise InvalidGroundTruth(f"math cannot parse the reference answer {str(ground_truth)[:80]!r}")
        answer = final_answer(text)
        if answer is None:
            return Score(reward=0.0)
        if _is_equality_chain(answer) or answer.casefold() == "nan":
            return Score(reward=0.0, answer=answer)
        parsed = _parsed(answer)
        return Score(reward=float(parsed is not None and _equal(reference, parsed)), answer=answer)


def _reference_text(ground_truth: Any) -> str:
    if isinstance(ground_truth, bool) or not isinstance(ground_truth, str | int | float):
        raise InvalidGroundTruth(f"math needs a string or a number; got {type(ground_truth).__name__}")
    if isinstance(ground_truth, float) and not math.isfinite(ground_truth):
        raise InvalidGroundTruth(f"math needs a finite number; got {ground_truth}")
    text = str(ground_truth)
    reference = (final_answer(text) if "boxed" in text else bare(text)) or ""
    if not reference or reference.casefold() == "nan":
        raise InvalidGroundTruth(f"math needs a reference answer; got {text[:80]!r}")
    return reference


def _is_equality_chain(answer: str) -> bool:
    return any(len(_EQUALS.findall(part)) > 1 for part in _LIST_SEPARATOR.split(answer))


@lru_cache(maxsize=1024)
def _parsed_reference(text: str) -> Any | None:
    return _parsed(text)


def _parsed(answer: str) -> Any | None:
    """Return the sympy expression of an answer, `None` when it is not mathematics."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    config = LatexExtractionConfig(
        boxed_match_priority=0,
        try_extract_without_anchor=False,
        normalization_config=NormalizationConfig(
            basic_latex=True, units=True, malformed_operators=False, nits=False, boxed="all", equations=False
        ),
    )
    answer = _SHORT_FRACTION.sub(lambda match: rf"\frac{_braced(match[1])}{_braced(match[2])}", answer)
    answer = _SHORT_ROOT.sub(r"\\sqrt{\1}", answer)
    expressions = parse(
        rf"\boxed{{{answer}}}",
        extraction_config=[config],
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=0,
    )
    return expressions[0] if expressions else None


def _braced(token: str) -> str:
    return token if token.startswith("{") else f"{{{token}}}"


def _equal(reference: Any, answer: Any) -> bool:
    from math_verify import verify

    try:
        return bool(verify([reference], [answer], timeout_seconds=None, raise_on_error=True))
    except (ArithmeticError, AttributeError, LookupError, NotImplementedError, TypeError, ValueError):
        # What sympy raises for things that cannot be compared, such as a matrix and an inequality, or 1/0. Memory and
        # recursion errors are not among them: those leave the reward unknown.
        return False
