"""SFT: the best completions of each prompt, good enough to imitate.

The highest reward wins, then the smallest rollout id: the choice never depends on which completion came first.
Completions that read the same but for white space count once. A thinking block that was never closed is kept when the
verifier rewarded the completion all the same: what is worth a reward is the verifier's matter.

Reasons, in the order they are looked for:

    reward_unknown, content_filtered, aborted, empty, truncated     see `rollouts.selection.completions.flaw`
    reward_below_minimum        the reward does not reach `min_reward`
    duplicate_text              a better completion of the prompt reads the same
    not_among_best              `max_per_prompt` better ones are there
"""

from __future__ import annotations

from rollouts.records import Attempt, Group
from rollouts.selection import Demonstration, Drop, Selected
from rollouts.selection.completions import CompletionKey, completion_key, dropped, flaw, reward_of
from rollouts.settings import CollectSFT


class SelectDemonstrations:
    """Keeps the best completions of a prompt."""

    def __init__(self, settings: CollectSFT) -> None:
        self._settings = settings

    def __call__(self, group: Group) -> Selected:
        """Decide about one group: up to `max_per_prompt` examples, the best first."""
        good: list[Attempt] = []
        drops: list[Drop] = []
        for attempt in group.attempts:
            reason = self._reason(attempt)
            if reason is None:
                good.append(attempt)
            else:
                drops.append(dropped(attempt, reason))
        good.sort(key=lambda attempt: (-reward_of(attempt), attempt.rollout.rollout_id))
        kept: dict[CompletionKey, Attempt] = {}
        for attempt in good:
            key = completion_key(attempt.rollout)
            if key in kept:
                drops.append(dropped(attempt, "duplicate_text"))
            elif len(kept) == self._settings.max_per_prompt:
                drops.append(dropped(attempt, "not_among_best"))
            else:
                kept[key] = attempt
        return Selected(examples=[Demonstration(group.prompt, attempt) for attempt in kept.values()], drops=drops)

    def _reason(self, attempt: Attempt) -> str | None:
        reason = flaw(attempt, keep_truncated=self._settings.keep_truncated)
        if reason is None and reward_of(attempt) < self._settings.min_reward:
            return "reward_below_minimum"
        return reason
