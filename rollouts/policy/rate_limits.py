"""Rate limits: how long to wait so that no minute, wherever it begins, holds more requests or tokens than allowed.

Two rules hold each limit. A sliding window keeps what was spent in the last minute: nothing is sent that would pass the
limit. A pace spreads what is sent over the minute, so that no minute begins with a burst; it may run late by
`CREDIT_S` and catch up, so that timers that fire late lose nothing. Under load at least 98 % of a limit is used, as long
as single requests are small beside it: one that takes a tenth of the limit may leave a tenth unused.

Counted is what was *sent* in a minute. Tokens count by their estimate until the answer is there and by their true
number then: what was estimated too high is given back, what was too low counts from the answer on. So a server that
counts estimates when a request comes in, or true tokens of requests by the time they came in, is never sent more than
allowed, if estimates are not too low. A server that counts tokens when a request *ends* sees the same amounts, moved by
the latency of each: on average they are within the limit, in a single minute long answers may end together.

Pure state machines: no tasks, no timers; the clock is given and never goes back. Not thread-safe.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Literal, NamedTuple

WINDOW_S = 60.1
"""Seconds for which something sent counts: a minute, and a tenth of a second because requests do not all take the same
time to reach the server."""
CREDIT_S = 1.0
"""Seconds the pace may lag behind and catch up at once (guess: a busy event loop is late by less). It is also the
largest burst, in seconds of the rate."""
BUCKETS = 6000
"""Most entries kept for each limit: what is sent within 1/6000 of the window, 10 ms, is one entry and leaves the
window with the last of it."""
_AT_ONCE_S = 1e-6
"""Waits below this are none: they come from rounding, and the window is longer than a minute by far more."""

Bound = Literal["requests_per_minute", "tokens_per_minute"]


class _Bucket:
    """What was spent within a hundredth of a second."""

    __slots__ = ("amount", "counts", "first_at", "last_at")

    def __init__(self, at: float) -> None:
        self.first_at = at
        self.last_at = at
        self.amount = 0
        self.counts = True
        """Whether it still lies in the window."""


class Spending(NamedTuple):
    """One request that was sent, for `RateLimits.settle`."""

    tokens: int
    """Tokens it was estimated to take, prompt and completion."""
    bucket: _Bucket | None
    """Where its tokens count; `None` without a limit on tokens."""


class _Window:
    """One limit: what was spent in the last window, and when the pace allows more.

    `total` is the sum of the buckets' amounts; a bucket that has left the window is not changed any more.
    """

    def __init__(self, limit: int, shared_by: int, now: float) -> None:
        self.limit = max(1, limit // shared_by)
        self.window_s = WINDOW_S * max(1.0, shared_by / limit)  # less than one a minute: one in several minutes
        self.rate = self.limit / self.window_s
        self.credit_s = max(CREDIT_S, 1 / self.rate)
        self.total = 0
        self.buckets: deque[_Bucket] = deque()
        self.due_at = now
        """When all that was sent would have been sent at the rate of the limit."""

    def wait_s(self, now: float, amount: int) -> float:
        self._forget(now)
        return max(0.0, self.due_at - now, self._window_wait_s(now, amount))

    def spend(self, now: float, amount: int) -> _Bucket:
        self._forget(now)
        self.due_at = max(self.due_at, now - self.credit_s) + amount / self.rate
        return self._add(now, amount)

    def settle(self, now: float, bucket: _Bucket, estimated: int, actual: int) -> None:
        self._forget(now)
        surplus = estimated - actual
        self.due_at -= surplus / self.rate
        if surplus < 0:
            self._add(now, -surplus)
        elif bucket.counts:
            bucket.amount -= surplus
            self.total -= surplus

    def _add(self, now: float, amount: int) -> _Bucket:
        last = self.buckets[-1] if self.buckets else None
        if last is None or now - last.first_at >= self.window_s / BUCKETS:
            last = _Bucket(now)
            self.buckets.append(last)
        last.last_at = now
        last.amount += amount
        self.total += amount
        return last

    def _forget(self, now: float) -> None:
        while self.buckets and now - self.buckets[0].last_at >= self.window_s:
            bucket = self.buckets.popleft()
            bucket.counts = False
            self.total -= bucket.amount

    def _window_wait_s(self, now: float, amount: int) -> float:
        over = self.total - max(0, self.limit - amount)  # an amount beyond the limit waits until nothing else counts
        if over <= 0:
            return 0.0
        wait = 0.0
        for bucket in self.buckets:
            over -= bucket.amount
            wait = bucket.last_at + self.window_s - now
            if over <= 0:
                break
        return wait


_NOTHING_SPENT = Spending(0, None)


class RateLimits:
    """Requests and tokens in any minute at one endpoint.

    Ask `wait_s`, send when it says 0, `spend` in the same step, `settle` when the request has ended.

    Args:
        requests_per_minute: At least 1; `None` for no limit. A request counts whatever becomes of it.
        tokens_per_minute: Prompt and completion tokens together, at least 1; `None` for no limit.
        shared_by: Runs that share the limits, this one included, at least 1: each takes its part, rounded down. A part
            of less than one a minute is one in so many minutes.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        requests_per_minute: int | None,
        tokens_per_minute: int | None,
        *,
        shared_by: int = 1,
        clock: Callable[[], float],
    ) -> None:
        self._clock = clock
        now = clock()
        self._requests = None if requests_per_minute is None else _Window(requests_per_minute, shared_by, now)
        self._tokens = None if tokens_per_minute is None else _Window(tokens_per_minute, shared_by, now)
        self._unlimited = self._requests is None and self._tokens is None
        self._bound_by: Bound | None = None

    @property
    def bound_by(self) -> Bound | None:
        """What the last `wait_s` waits for, the longer one of the two; `None` when it said that nothing does."""
        return self._bound_by

    def wait_s(self, tokens: int) -> float:
        """Return the seconds until a request may be sent, 0.0 when it may be sent now; always finite.

        A request of more tokens than a whole minute's limit is sent alone: when no tokens count any more, and nothing
        after it until its own have been paid for at the rate of the limit. Its turn only comes if nothing else is sent
        while it waits.

        Args:
            tokens: It is estimated to take, prompt and completions of all its samples.
        """
        if self._unlimited:
            return 0.0
        now = self._clock()
        requests_s = self._requests.wait_s(now, 1) if self._requests else 0.0
        tokens_s = self._tokens.wait_s(now, tokens) if self._tokens else 0.0
        wait_s = max(requests_s, tokens_s)
        if wait_s < _AT_ONCE_S:
            self._bound_by = None
            return 0.0
        self._bound_by = "requests_per_minute" if requests_s >= tokens_s else "tokens_per_minute"
        return wait_s

    def spend(self, tokens: int) -> Spending:
        """Count a request that is sent now, whether or not it should have waited."""
        if self._unlimited:
            return _NOTHING_SPENT
        now = self._clock()
        if self._requests:
            self._requests.spend(now, 1)
        return Spending(tokens, self._tokens.spend(now, tokens) if self._tokens else None)

    def settle(self, spending: Spending, tokens: int | None) -> None:
        """Count the true tokens of a request that has ended. To be called once for each spending.

        Args:
            spending: What `spend` returned.
            tokens: Prompt and completion tokens that the server counted; 0 for a request that it refused; `None` when
                nobody knows: the estimate stays.
        """
        if self._tokens and spending.bucket and tokens is not None:
            self._tokens.settle(self._clock(), spending.bucket, spending.tokens, tokens)


class TokenEstimate:
    """How many tokens a request will take, learned from the answers so far.

    Limits are about sums, so the estimate is a mean with a margin, not a bound for each request. The last thousand
    answers or so count; before the first, a prompt has a token for every three characters, and a completion is as long
    as it may be.
    """

    MARGIN = 1.05
    """Factor on what was learned, for drift (guess)."""
    MEMORY = 1000
    """Answers after which an old one weighs about a third."""
    FIRST_TOKENS_PER_CHARACTER = 1 / 3
    """Before anything is known: English has about a quarter, code and other scripts more."""
    FIRST_COMPLETION_TOKENS = 1024
    """Before anything is known, where no maximum is set (guess)."""

    def __init__(self) -> None:
        self._characters = 0.0
        self._prompt_tokens = 0.0
        self._weight = 0.0
        self._mean = 0.0
        self._variance = 0.0

    def learn(
        self, prompt_characters: int, prompt_tokens: int | None, completion_tokens: int | None, num_samples: int = 1
    ) -> None:
        """Take in one answer.

        Args:
            prompt_characters: Of the prompt, counted as for `estimate`.
            prompt_tokens: As the server counted them; `None` when it did not.
            completion_tokens: Of all its samples together; `None` when the server did not count them.
            num_samples: Samples it holds, at least 1.
        """
        keep = 1 - 1 / self.MEMORY
        if prompt_tokens is not None:
            self._characters = self._characters * keep + prompt_characters
            self._prompt_tokens = self._prompt_tokens * keep + prompt_tokens
        if completion_tokens is not None:
            self._weight = self._weight * keep + 1
            share = 1 / self._weight
            difference = completion_tokens / num_samples - self._mean
            self._mean += share * difference
            self._variance = (1 - share) * (self._variance + share * difference**2)

    def estimate(self, prompt_characters: int, max_output_tokens: int | None, num_samples: int = 1) -> int:
        """Return the tokens that a request will take, at least 1.

        Args:
            prompt_characters: Of all messages of the prompt together.
            max_output_tokens: Most tokens a sample may have; `None` when nothing bounds it.
            num_samples: Samples asked for at once; they share the prompt.
        """
        ratio = self.FIRST_TOKENS_PER_CHARACTER
        if self._characters > 0:
            ratio = self.MARGIN * self._prompt_tokens / self._characters
        if self._weight > 0:  # the mean, and two standard errors of it while few answers are known
            completion = self.MARGIN * self._mean + 2 * math.sqrt(max(self._variance, 0.0) / self._weight)
            if self._weight < 2:  # one answer says nothing about the others
                completion = max(completion, max_output_tokens or self.FIRST_COMPLETION_TOKENS)
        else:
            completion = max_output_tokens or self.FIRST_COMPLETION_TOKENS
        if max_output_tokens is not None:
            completion = min(completion, max_output_tokens)
        return max(1, math.ceil(prompt_characters * ratio + num_samples * completion))
