"""Which selector belongs to which settings."""

from __future__ import annotations

from rollouts.errors import ConfigError
from rollouts.selection import Selector
from rollouts.selection.dpo import SelectPairs
from rollouts.selection.rl import SelectGroups
from rollouts.selection.sft import SelectDemonstrations
from rollouts.settings import CollectDPO, CollectRL, CollectSettings, CollectSFT


def selector(settings: CollectSettings) -> Selector:
    """Make the selector of an objective.

    Raises:
        ConfigError: There is no selector for settings of this type.
    """
    match settings:
        case CollectRL():
            return SelectGroups(settings)
        case CollectSFT():
            return SelectDemonstrations(settings)
        case CollectDPO():
            return SelectPairs(settings)
        case _:
            raise ConfigError(f"no selector for settings of type {type(settings).__name__}")
