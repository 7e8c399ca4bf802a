import pickle

import pytest

from rollouts import errors
from rollouts.errors import ErrorRecord, PolicyError, PolicyUnavailable, RolloutError


def every_error() -> list[type[RolloutError]]:
    found = [RolloutError]
    for kind in found:
        found += kind.__subclasses__()
    return found


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_survives_pickling_with_its_message(kind: type[RolloutError]) -> None:
    again = pickle.loads(pickle.dumps(kind("group 9f3c: 7 of 8")))
    assert type(again) is kind
    assert str(again) == "group 9f3c: 7 of 8"


def test_a_policy_error_keeps_status_and_wait_when_pickled() -> None:
    again = pickle.loads(pickle.dumps(PolicyUnavailable("later", status=429, retry_after_s=2.5)))
    assert (again.status, again.retry_after_s, again.retryable) == (429, 2.5, True)


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_stands_in_the_tree_of_the_docstring(kind: type[RolloutError]) -> None:
    assert kind.__name__ in (errors.__doc__ or "")


def test_a_record_of_an_error_says_whether_it_may_pass() -> None:
    assert ErrorRecord.of(PolicyUnavailable("x" * 900, status=503)) == ErrorRecord(
        type="PolicyUnavailable", message="x" * 500, retryable=True, status=503
    )
    assert ErrorRecord.of(ValueError("no")).retryable is False
    assert issubclass(PolicyUnavailable, PolicyError)
