"""The backlog: how many samples of the batches that were handed over have not been sent yet.

Whoever hands batches over keeps it just above what the slots will take next: less, and slots stand empty while a batch is
being loaded; more, and memory holds prompts that nobody needs yet. A batch that waits for its last slow answers adds nothing
to it, so the next one is handed over long before.
"""

from __future__ import annotations

import threading


class Backlog:
    """Counts what is waiting, batch by batch. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._waiting: dict[str, int] = {}
        self._num_waiting = 0
        self._wanted_below = 0
        self._changed = threading.Condition()

    def hand_over(self, batch_id: str, num_samples: int) -> None:
        """Note a batch that is about to be sampled."""
        with self._changed:
            self._set(batch_id, num_samples)

    def narrow(self, batch_id: str, num_samples: int) -> None:
        """Note how many samples of a batch are really missing."""
        with self._changed:
            if batch_id in self._waiting:
                self._set(batch_id, num_samples)

    def began(self, batch_id: str, num_samples: int) -> None:
        """Note samples of a batch that were sent for the first time."""
        with self._changed:
            left = self._waiting.get(batch_id)
            if left is not None:
                self._set(batch_id, max(0, left - num_samples))

    def end(self, batch_id: str) -> None:
        """Note a batch that has ended, in whatever way."""
        with self._changed:
            self._num_waiting -= self._waiting.pop(batch_id, 0)
            self._changed.notify_all()

    @property
    def num_waiting(self) -> int:
        """Samples that were handed over and not sent yet."""
        return self._num_waiting

    @property
    def num_open(self) -> int:
        """Batches that were handed over and have not ended."""
        return len(self._waiting)

    def wait_below(self, num_samples: int, timeout_s: float) -> None:
        """Wait until fewer than `num_samples` are waiting, a batch has ended, or `timeout_s` seconds have passed."""
        with self._changed:
            if self._num_waiting >= num_samples:
                self._wanted_below = num_samples  # so that a thousand sendings a second wake nobody in vain
                self._changed.wait(timeout_s)
                self._wanted_below = 0

    def _set(self, batch_id: str, num_samples: int) -> None:
        self._num_waiting += num_samples - self._waiting.get(batch_id, 0)
        self._waiting[batch_id] = num_samples
        if self._num_waiting < self._wanted_below:
            self._changed.notify_all()
