"""When a failed request is made again: exponential back-off with full jitter, and never sooner than the server asked.

A refusal (429) says that the server is busy, not that the request is bad. So it counts a quarter of a failure: whoever
asks for more than a server takes gets slower, and does not lose rollouts.
"""

from __future__ import annotations

import random

from rollouts.errors import PolicyBusy, PolicyError

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 60.0
"""Bounds of the longest wait before the second, and before any later request; the jitter goes down to `_LEAST_WAIT_S`."""
_LEAST_WAIT_S = 0.1
_REFUSALS_FOR_AN_ATTEMPT = 4


def is_refusal(error: PolicyError) -> bool:
    """Whether the server put the request off because it is busy."""
    return isinstance(error, PolicyBusy)


def may_try_again(error: PolicyError, requests: int, refusals: int, max_attempts: int) -> bool:
    """Whether a request that failed is made again.

    Args:
        error: Why the last one failed.
        requests: Requests sent, refused ones included.
        refusals: How many of them were refused.
        max_attempts: Failures after which the rollout is given up.
    """
    if not error.retryable:
        return False
    return requests - refusals < max_attempts and refusals < max_attempts * _REFUSALS_FOR_AN_ATTEMPT


def wait_s(error: PolicyError, requests: int) -> float:
    """Seconds until the next request.

    Args:
        error: Why the last one failed; what the server asked for is in it, clamped already.
        requests: Requests sent so far, >= 1.
    """
    longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(requests - 1, 16))
    wait = max(_LEAST_WAIT_S, random.uniform(0, longest))
    return wait if error.retry_after_s is None else error.retry_after_s + min(wait, 1.0)
