from typing import get_args

import pytest

from rollouts.errors import ConfigError
from rollouts.settings import VerifierKind
from rollouts.verifiers.registry import IN_PROCESS, VERIFIERS, verifier


def test_settings_offer_exactly_the_kinds_there_are():
    assert set(get_args(VerifierKind)) == set(VERIFIERS)
    assert set(VERIFIERS) >= IN_PROCESS


def test_every_verifier_knows_its_name_version_and_range():
    for kind in VERIFIERS:
        made = verifier(kind)
        low, high = made.reward_range
        assert (made.kind, low < high, bool(made.version)) == (kind, True, True)


def test_an_unknown_kind_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match="no verifier 'maths'; there are exact_match, math, numeric"):
        verifier("maths")
