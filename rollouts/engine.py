"""The sampling engine: one event loop of its own, a fixed number of slots, one queue for all batches.

Batches submit attempts and wait; slots take the next attempt the moment they are free, across batch borders, in the
order of submission. So the slow tail of one batch never leaves slots empty as long as another batch has been submitted.
An attempt that fails is a rollout with an error. An error that no request can survive stops everything at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import NamedTuple, Self

from rollouts.errors import PolicyFatal, SamplingStopped
from rollouts.policy import Policy
from rollouts.records import Prompt, Rollout

logger = logging.getLogger(__name__)


class Request(NamedTuple):
    """One rollout to sample."""

    prompt: Prompt
    repeat_index: int


class _Batch:
    """Requests that somebody waits for together."""

    def __init__(self, size: int, sink: Callable[[Rollout], None]) -> None:
        self.remaining = size
        self.sink = sink
        self.done: Future[None] = Future()

    def take(self, rollout: Rollout) -> None:
        try:
            self.sink(rollout)
        except Exception as error:  # noqa: BLE001 - the sink is the caller's: its error goes back to the caller
            self.fail(error)
            return
        self.remaining -= 1
        if self.remaining == 0 and not self.done.done():
            self.done.set_result(None)

    def fail(self, error: BaseException) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class Engine:
    """Samples attempts over a fixed number of slots. Use as a context; `collect` may be called from many threads.

    Args:
        make_policy: Makes the policy; called on the engine's loop.
        slots: Attempts in flight at once.
    """

    def __init__(self, make_policy: Callable[[], Policy], slots: int) -> None:
        self._make_policy = make_policy
        self._slots = slots
        self._pending: deque[tuple[_Batch, Request]] = deque()
        self._lock = threading.Lock()
        """Guards what the loop and those who wait share: the two below."""
        self._batches: set[_Batch] = set()
        self._fatal: BaseException | None = None
        self._loop = asyncio.new_event_loop()
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="sampling-engine", daemon=True)

    def __enter__(self) -> Self:
        """Start the loop and ask the server whether it can be sampled.

        Raises:
            PolicyFatal: It cannot; the message says what to change.
        """
        self._thread.start()
        try:
            self._started.result()
        except BaseException:
            self._thread.join()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop all slots at once and close the connections; journaled rollouts are safe, those in flight are lost."""
        self.stop()
        self._thread.join()

    def stop(self) -> None:
        """Send nothing more, and let go of everybody who waits; what was journaled is safe."""
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself
            self._loop.call_soon_threadsafe(self._stop.set)

    def collect(self, requests: Sequence[Request], sink: Callable[[Rollout], None]) -> None:
        """Sample `requests` and wait until each has ended, one way or another.

        Args:
            requests: Taken in this order, after those submitted earlier.
            sink: Called with each rollout as it ends, on the engine's thread; must not block.

        Raises:
            PolicyFatal: No request can succeed; nothing more is sent.
            StoreError: The sink could not keep a rollout.
        """
        if not requests:
            return
        batch = _Batch(len(requests), sink)
        with self._lock:
            if self._fatal is not None:
                raise self._fatal
            self._batches.add(batch)  # before it is handed over, so that an engine that ends now lets go of it
        try:
            with contextlib.suppress(RuntimeError):  # the loop has ended: whoever ended it has failed the batch
                self._loop.call_soon_threadsafe(self._submit, batch, requests)
            batch.done.result()
        finally:
            with self._lock:
                self._batches.discard(batch)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - the thread's edge: whoever waits gets the error
            self._give_up(error)
            if not self._started.done():
                self._started.set_exception(error)

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        self._more = asyncio.Semaphore(0)
        policy = self._make_policy()
        slots: list[asyncio.Task[None]] = []
        try:
            await policy.probe()
            slots = [asyncio.create_task(self._slot(policy)) for _ in range(self._slots)]
            self._started.set_result(None)
            await self._stop.wait()
        finally:
            for slot in slots:
                slot.cancel()
            await asyncio.gather(*slots, return_exceptions=True)
            await policy.close()
            self._give_up(self._fatal or SamplingStopped("sampling was stopped before this batch had ended"))

    def _submit(self, batch: _Batch, requests: Sequence[Request]) -> None:
        for request in requests:
            self._pending.append((batch, request))
            self._more.release()

    async def _slot(self, policy: Policy) -> None:
        """Take the next attempt, for ever."""
        while True:
            await self._more.acquire()
            batch, request = self._pending.popleft()
            if batch.done.done():
                continue
            try:
                rollout = await policy.sample(request.prompt, request.repeat_index)
            except PolicyFatal as error:
                self._fatal = error
                self._give_up(error)
                self._stop.set()
                return
            except Exception as error:  # a defect of ours must end the batch, not one slot in silence
                logger.exception("Sampling prompt %s broke.", request.prompt.prompt_id)
                batch.fail(error)
                continue
            batch.take(rollout)

    def _give_up(self, error: BaseException) -> None:
        """Let everybody who waits know that nothing more comes."""
        with self._lock:
            self._fatal = self._fatal or error
            waiting = list(self._batches)
        self._pending.clear()
        for batch in waiting:
            batch.fail(error)
