"""What every verifier promises, case by case: full and zero reward, malformed input, and the same answer every time.

Where a library is more lenient than one might expect, the case says "chosen": it records the outcome that stands.
"""

import json
import random
from pathlib import Path

import pytest

from rollouts.errors import InvalidGroundTruth
from rollouts.records import Prompt, Rollout, StopReason, Verdict, VerdictStatus
from rollouts.verification import VerifierPool, check_ground_truth
from rollouts.verifiers.registry import VERIFIERS, verifier

DATA = Path(__file__).parent.parent / "data" / "verifiers"
CASES = {
    kind: [json.loads(line) for line in (DATA / f"{kind}.jsonl").read_text().splitlines()] for kind in sorted(VERIFIERS)
}
EACH_CASE = [
    pytest.param(kind, index, id=f"{kind}: {case['why']}") for kind in CASES for index, case in enumerate(CASES[kind])
]


def pairs_of(kind: str) -> list[tuple[Prompt, Rollout]]:
    pairs: list[tuple[Prompt, Rollout]] = []
    for index, case in enumerate(CASES[kind]):
        ids = {"prompt_id": f"{kind}-{index}"}
        messages = [{"role": "user", "content": "?"}]
        prompt = Prompt(**ids, messages=messages, verifier=kind, ground_truth=case["ground_truth"])
        rollout = Rollout(
            **ids,
            rollout_id=f"r-{kind}-{index}",
            repeat_index=0,
            messages=[*messages, {"role": "assistant", "content": case["text"]}],
            num_prompt_messages=1,
            stop_reason=StopReason.STOP,
        )
        pairs.append((prompt, rollout))
    return pairs


@pytest.fixture(scope="module")
def pool():
    with VerifierPool(num_workers=2, limit_s=1.0) as pool:
        yield pool


@pytest.fixture(scope="module")
def verdicts(pool: VerifierPool) -> dict[str, list[Verdict]]:
    return {kind: pool.score_batch(pairs_of(kind)) for kind in CASES}


@pytest.mark.parametrize(("kind", "index"), EACH_CASE)
def test_each_case_has_the_verdict_that_was_chosen(verdicts, kind, index):
    verdict, case = verdicts[kind][index], CASES[kind][index]
    assert (verdict.status.value, verdict.reward) == (case["status"], case["reward"]), (verdict.answer, verdict.error)


@pytest.mark.parametrize("kind", CASES)
def test_the_same_rollouts_get_the_same_verdicts_in_any_order(pool, verdicts, kind):
    ending = [verdict for verdict in verdicts[kind] if verdict.status is not VerdictStatus.VERIFIER_FAILED]
    pairs = [pair for pair in pairs_of(kind) if pair[1].rollout_id in {verdict.rollout_id for verdict in ending}]
    random.Random(1).shuffle(pairs)
    again = {verdict.rollout_id: verdict for verdict in pool.score_batch(pairs)}
    for verdict in ending:
        other = again[verdict.rollout_id]
        assert (other.status, other.reward, other.answer) == (verdict.status, verdict.reward, verdict.answer)


@pytest.mark.parametrize("kind", CASES)
def test_the_early_check_never_refuses_what_can_be_scored(kind):
    for case in CASES[kind]:
        if case["status"] != "invalid_ground_truth":
            check_ground_truth(kind, case["ground_truth"])
        elif kind != "math":
            with pytest.raises(InvalidGroundTruth):
                check_ground_truth(kind, case["ground_truth"])


@pytest.mark.parametrize("kind", CASES)
def test_rewards_lie_in_the_declared_range_and_versions_are_named(verdicts, kind):
    low, high = verifier(kind).reward_range
    assert all(low <= verdict.reward <= high for verdict in verdicts[kind] if verdict.reward is not None)
    assert {(verdict.verifier, verdict.verifier_version) for verdict in verdicts[kind]} == {
        (kind, verifier(kind).version)
    }


@pytest.mark.parametrize("kind", CASES)
def test_there_are_cases_of_every_sort(kind):
    sorts = [case["case"] for case in CASES[kind]]
    assert min(sorts.count(sort) for sort in ("full", "zero", "malformed")) >= 12
