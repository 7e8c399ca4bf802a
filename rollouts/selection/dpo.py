"""DPO: pairs of completions of one prompt, the chosen one better by at least the minimum gap.

Pairs are made among all scored attempts of a group before anything looks at how good they are; a reward filter first
would leave no rejected side. Both sides must be whole completions: a truncated or empty text is not even rejected,
because the model would learn the cut, or the silence, rather than the mistake. What the policy never wrote (a failed
request, a withheld text) and what the verifier could not judge is no evidence of a bad completion either.

Among the allowed pairs the first in order is taken, then the next that shares no rollout with one taken before, up to
`max_pairs_per_prompt`. The order is total and does not depend on which rollout came first:

    length_matched      smallest difference in length, then largest gap, then ids
    best_worst          largest gap, then ids

Lengths are completion tokens when the server counted them for every candidate of the group, else characters.

Reasons, in the order they are looked for:

    reward_unknown, content_filtered, aborted, empty, truncated     see `rollouts.selection.completions.flaw`
    no_reward_gap           no other candidate's reward is far enough away
    same_text               those that are far enough away read the same but for white space
    length_difference       those that also read differently are too much longer or shorter
    not_paired              it could have been paired, but other pairs came first
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from functools import cache
from itertools import combinations
from typing import NamedTuple

from rollouts.records import Attempt, Group
from rollouts.selection import Drop, PreferencePair, Selected
from rollouts.selection.completions import completion_key, dropped, flaw, reward_of
from rollouts.settings import CollectDPO

GAP_TOLERANCE = 1e-9
"""A gap this much below the minimum still counts: 0.9 - 0.8 is 0.09999999999999998 in binary."""


class _Nearness(IntEnum):
    """How near two attempts come to being paired; the lower-case name is the drop reason."""

    NO_REWARD_GAP = 0
    SAME_TEXT = 1
    LENGTH_DIFFERENCE = 2
    NOT_PAIRED = 3
    """Nothing holds the pair back."""


class _Pair(NamedTuple):
    chosen: Attempt
    rejected: Attempt
    gap: float
    length_difference: int


class SelectPairs:
    """Makes preference pairs inside a group."""

    def __init__(self, settings: CollectDPO) -> None:
        self._settings = settings
        self._order = _ORDERS[settings.pairing]
        self._smallest_gap = settings.min_reward_gap - GAP_TOLERANCE

    def __call__(self, group: Group) -> Selected:
        """Decide about one group: up to `max_pairs_per_prompt` examples; no rollout is in two."""
        flaws = [(attempt, flaw(attempt)) for attempt in group.attempts]
        drops = [dropped(attempt, reason) for attempt, reason in flaws if reason is not None]
        candidates = [attempt for attempt, reason in flaws if reason is None]
        allowed, reasons = self._allowed(candidates)
        taken: list[_Pair] = []
        used: set[str] = set()
        for pair in sorted(allowed, key=self._order):
            if len(taken) == self._settings.max_pairs_per_prompt:
                break
            ids = {pair.chosen.rollout.rollout_id, pair.rejected.rollout.rollout_id}
            if used.isdisjoint(ids):
                taken.append(pair)
                used |= ids
        drops += _left_over(candidates, reasons, used)
        return Selected(
            examples=[PreferencePair(group.prompt, pair.chosen, pair.rejected) for pair in taken], drops=drops
        )

    def _allowed(self, candidates: list[Attempt]) -> tuple[list[_Pair], dict[str, str]]:
        """Return all pairs that may be taken, and for each rollout the reason that holds if it is in none taken."""
        rewards, lengths = [reward_of(attempt) for attempt in candidates], _lengths(candidates)
        key_of = cache(lambda index: completion_key(candidates[index].rollout))
        nearest = [_Nearness.NO_REWARD_GAP] * len(candidates)
        allowed: list[_Pair] = []
        for one, other in combinations(range(len(candidates)), 2):
            gap = abs(rewards[one] - rewards[other])
            if gap <= 0 or gap < self._smallest_gap:
                continue
            difference = abs(lengths[one] - lengths[other])
            nearness = self._nearness(difference, same_text=key_of(one) == key_of(other))
            if nearness is _Nearness.NOT_PAIRED:
                chosen, rejected = (one, other) if rewards[one] > rewards[other] else (other, one)
                allowed.append(_Pair(candidates[chosen], candidates[rejected], gap, difference))
            nearest[one] = max(nearest[one], nearness)
            nearest[other] = max(nearest[other], nearness)
        reasons = zip(candidates, nearest, strict=True)
        return allowed, {attempt.rollout.rollout_id: nearness.name.lower() for attempt, nearness in reasons}

    def _nearness(self, length_difference: int, *, same_text: bool) -> _Nearness:
        """How near two attempts come whose rewards are far enough apart."""
        longest = self._settings.max_length_difference
        if same_text:
            return _Nearness.SAME_TEXT
        if longest is not None and length_difference > longest:
            return _Nearness.LENGTH_DIFFERENCE
        return _Nearness.NOT_PAIRED


def _left_over(candidates: list[Attempt], reasons: dict[str, str], used: set[str]) -> list[Drop]:
    ids_and_attempts = ((attempt.rollout.rollout_id, attempt) for attempt in candidates)
    return [dropped(attempt, reasons[rollout_id]) for rollout_id, attempt in ids_and_attempts if rollout_id not in used]


def _lengths(candidates: list[Attempt]) -> list[int]:
    """Return the length of each completion, all in one unit."""
    tokens = [attempt.rollout.usage.completion_tokens for attempt in candidates]
    known = [count for count in tokens if count is not None]
    return known if len(known) == len(tokens) else [len(attempt.rollout.text) for attempt in candidates]


def _by_gap(pair: _Pair) -> tuple[float, str, str]:
    # Rounded, so that gaps that differ by binary noise only are ordered by the ids.
    return -round(pair.gap, 9), pair.chosen.rollout.rollout_id, pair.rejected.rollout.rollout_id


def _by_length(pair: _Pair) -> tuple[int, float, str, str]:
    return pair.length_difference, *_by_gap(pair)


_ORDERS: dict[str, Callable[[_Pair], tuple[float | str, ...]]] = {"length_matched": _by_length, "best_worst": _by_gap}
