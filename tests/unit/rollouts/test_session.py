from pathlib import Path

import pytest

from rollouts.errors import DataError
from rollouts.layout import session_key
from rollouts.session import EndpointFigures, LimitChange, SamplingSession, read_sessions, write_session
from rollouts.storage import Store


def make_session(started_at: float) -> SamplingSession:
    changes = [LimitChange(at=started_at + 1, limit=32, reason="refused (429)")]
    return SamplingSession(
        started_at=started_at,
        ended_at=started_at + 60.5,
        slots=64,
        samples=1000,
        busy_share=0.97,
        bound_by={"no_prompts": 1.5},
        endpoints=[EndpointFigures(url="http://127.0.0.1:8000/v1", requests=1010, samples=1000, changes=changes)],
    )


def test_sessions_of_a_run_come_back_as_they_were_in_the_order_they_began(tmp_path: Path):
    store = Store(str(tmp_path))
    late, early = make_session(1_760_000_100.25), make_session(999_999_999.5)
    for session in (late, early):
        write_session(store, "s", "run", session)
    assert read_sessions(store, "s", "run") == [early, late]


def test_a_run_reads_neither_the_sessions_of_others_nor_any_where_there_are_none(tmp_path: Path):
    store = Store(str(tmp_path))
    assert read_sessions(store, "s", "run") == []
    write_session(store, "s", "another", make_session(1.0))
    write_session(store, "s", "run2", make_session(1.0))
    write_session(store, "t", "run", make_session(1.0))
    assert read_sessions(store, "s", "run") == []


def test_a_file_that_is_no_session_is_named(tmp_path: Path):
    store = Store(str(tmp_path))
    store.write(session_key("s", "run", 1), b"{}")
    with pytest.raises(DataError, match=r"run-1\.json"):
        read_sessions(store, "s", "run")
