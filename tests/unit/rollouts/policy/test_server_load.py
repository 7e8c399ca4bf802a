from rollouts.policy.server_load import ServerGauges, ServerLoad


def test_a_server_without_a_queue_and_with_an_empty_cache_has_room() -> None:
    load = ServerLoad()
    assert not load.is_known(0.0)
    load.read(0.0, ServerGauges(10, 0, 0.5), 1.0)
    assert load.has_room
    load.read(2.0, ServerGauges(10, 0, 0.92), 1.0)
    assert (load.has_room, load.is_full) == (False, False)
    load.read(4.0, ServerGauges(10, 0, 0.99), 1.0)
    assert (load.has_room, load.is_full) == (False, True)
    load.read(6.0, ServerGauges(10, 0, None), 1.0)
    assert load.has_room


def test_a_queue_says_what_share_is_run_once_it_has_stayed() -> None:
    load = ServerLoad()
    queued = ServerGauges(60, 20, 0.5)
    assert load.read(0.0, queued, 1.0) is None
    assert load.queues
    assert load.read(2.0, queued, 1.0) is None
    assert load.read(4.0, queued, 1.0) == 0.75
    assert load.read(6.0, queued, 1.0) is None


def test_a_queue_that_went_and_came_again_has_not_stayed() -> None:
    load = ServerLoad()
    for at in range(0, 20, 4):
        assert load.read(at, ServerGauges(60, 20, 0.5), 1.0) is None
        assert load.read(at + 2, ServerGauges(60, 0, 0.5), 1.0) is None


def test_a_short_queue_is_welcome() -> None:
    load = ServerLoad()
    for at in range(0, 20, 2):
        assert load.read(at, ServerGauges(60, 6, 0.5), 1.0) is None
    assert not load.queues
    assert not load.has_room


def test_gauges_that_say_nothing_or_are_old_count_for_nothing() -> None:
    load = ServerLoad()
    load.read(0.0, ServerGauges(5, None, None), 1.0)
    assert not load.is_known(0.0)
    load.read(0.0, ServerGauges(None, 3, None), 1.0)
    assert load.is_known(29.0)
    assert not load.is_known(31.0)


def test_a_server_that_runs_nothing_is_no_measure() -> None:
    load = ServerLoad()
    for at in range(0, 20, 2):
        assert load.read(at, ServerGauges(0, 50, 0.1), 1.0) is None
    assert load.queues
