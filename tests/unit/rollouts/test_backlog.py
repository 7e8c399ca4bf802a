"""The backlog counts what is waiting, and wakes who hands batches over only when it matters."""

import threading
import time

from rollouts.backlog import Backlog


def test_what_was_handed_over_waits_until_it_is_sent() -> None:
    backlog = Backlog()
    backlog.hand_over("a", 10)
    backlog.hand_over("b", 5)
    backlog.began("a", 4)
    assert (backlog.num_waiting, backlog.num_open) == (11, 2)


def test_samples_that_exist_already_do_not_wait() -> None:
    backlog = Backlog()
    backlog.hand_over("a", 10)
    backlog.narrow("a", 3)
    assert backlog.num_waiting == 3


def test_a_batch_that_failed_leaves_nothing_behind() -> None:
    backlog = Backlog()
    backlog.hand_over("a", 10)
    backlog.began("a", 2)
    backlog.end("a")
    backlog.began("a", 1)  # a request of a batch that was tried again
    assert (backlog.num_waiting, backlog.num_open) == (0, 0)


def test_whoever_waits_is_woken_when_little_is_left_and_when_a_batch_ends() -> None:
    backlog = Backlog()
    backlog.hand_over("a", 10)
    woken: list[float] = []

    def wait(num_samples: int) -> None:
        backlog.wait_below(num_samples, timeout_s=30)
        woken.append(time.monotonic())

    for wake, num_samples in ((lambda: backlog.began("a", 7), 4), (lambda: backlog.end("a"), 0)):
        waiting = threading.Thread(target=wait, args=(num_samples,))
        waiting.start()
        time.sleep(0.05)
        assert waiting.is_alive()
        wake()
        waiting.join(timeout=5)
        assert not waiting.is_alive()
    assert len(woken) == 2


def test_whoever_waits_for_what_is_true_already_does_not_wait() -> None:
    started = time.monotonic()
    Backlog().wait_below(1, timeout_s=30)
    assert time.monotonic() - started < 5
