from rollouts.policy.limit_history import MOST_CHANGES, LimitHistory


def told(history: LimitHistory) -> list[tuple[float, int, str]]:
    return [(change.at, change.limit, change.reason) for change in history.changes]


def test_small_steps_of_one_direction_are_one_change() -> None:
    history = LimitHistory(100)
    for at, limit in enumerate((110, 120, 130, 140)):
        history.note(at, limit, "growing")
    history.note(9, 120, "refused (429)")
    assert told(history) == [(3, 140, "growing"), (9, 120, "refused (429)")]


def test_large_steps_and_other_reasons_are_changes_of_their_own() -> None:
    history = LimitHistory(100)
    history.note(1, 200, "growing")
    history.note(2, 400, "growing")
    history.note(3, 360, "latency")
    history.note(4, 320, "timeouts")
    assert [limit for _, limit, _ in told(history)] == [200, 400, 360, 320]


def test_wobbling_around_a_value_is_no_change() -> None:
    history = LimitHistory(64)
    for at in range(100):
        history.note(at, 65 - at % 2, "refused (429)")
    assert told(history) == []
    small = LimitHistory(2)
    small.note(1, 1, "timeouts")
    assert told(small) == [(1, 1, "timeouts")]


def test_older_changes_are_thinned_out_and_the_last_are_all_there() -> None:
    history = LimitHistory(10)
    for at in range(5000):
        history.note(at, 20 if at % 2 else 10, "growing")
        assert len(history.changes) <= MOST_CHANGES
    times = [at for at, _, _ in told(history)]
    assert times[-50:] == list(range(4950, 5000))
    assert times == sorted(times)
    assert times[0] < 2500
