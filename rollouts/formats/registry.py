"""Which formats stand for a trainer's name: one file for most, two where prompts and rollouts are separate."""

from __future__ import annotations

from collections.abc import Sequence

from rollouts.formats import Format
from rollouts.formats.nemo_gym import NemoGymRollouts
from rollouts.formats.nemo_rl import NemoRlDemonstrations, NemoRlPreferences, NemoRlPrompts
from rollouts.formats.openrlhf import OpenRlhfDemonstrations, OpenRlhfPreferences, OpenRlhfPrompts
from rollouts.formats.trl import TrlDemonstrations, TrlPreferences, TrlPrompts, TrlRollouts
from rollouts.formats.verl import VerlDemonstrations, VerlPreferences, VerlPrompts
from rollouts.settings import FormatName, Objective

FORMATS: dict[Objective, dict[FormatName, tuple[type[Format], ...]]] = {
    "rl": {
        "trl": (TrlPrompts, TrlRollouts),
        "verl": (VerlPrompts,),
        "openrlhf": (OpenRlhfPrompts,),
        "nemo_rl": (NemoRlPrompts, NemoGymRollouts),
    },
    "sft": {
        "trl": (TrlDemonstrations,),
        "verl": (VerlDemonstrations,),
        "openrlhf": (OpenRlhfDemonstrations,),
        "nemo_rl": (NemoRlDemonstrations,),
    },
    "dpo": {
        "trl": (TrlPreferences,),
        "verl": (VerlPreferences,),
        "openrlhf": (OpenRlhfPreferences,),
        "nemo_rl": (NemoRlPreferences,),
    },
}
"""Formats of each trainer, by objective. A new one is a class in this folder and a line here."""


def formats_for(objective: Objective, names: Sequence[FormatName]) -> list[Format]:
    """Return the formats that write one objective's examples for these trainers, in the order of `names`."""
    return [kind() for name in names for kind in FORMATS[objective][name]]
