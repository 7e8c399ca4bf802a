import pytest

from rollouts.errors import ConfigError
from rollouts.selection.dpo import SelectPairs
from rollouts.selection.registry import selector
from rollouts.selection.rl import SelectGroups
from rollouts.selection.sft import SelectDemonstrations
from rollouts.settings import SETTINGS, CollectSettings


def test_every_objective_has_its_selector():
    kinds = {"rl": SelectGroups, "sft": SelectDemonstrations, "dpo": SelectPairs}
    assert {objective: type(selector(settings())) for objective, settings in SETTINGS.items()} == kinds


def test_settings_of_no_objective_have_none():
    with pytest.raises(ConfigError, match="CollectSettings"):
        selector(CollectSettings())
