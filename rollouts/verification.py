"""Verification: every rollout gets exactly one verdict, and an unknown reward stays unknown.

    the policy server failed                            policy_failed          no reward
    the reference answer is unusable                    invalid_ground_truth   no reward
    the verifier raised, hung, crashed, or returned
    something that is not a reward                      verifier_failed        no reward
    the completion is empty, or cut before an answer    model_failed           the verifier's smallest reward
    otherwise                                           scored                 what the verifier returned

The first line that applies stands. Verifiers whose work is bounded run in the calling thread, the others in processes
that can be killed. Equal texts with equal reference answers are judged once in a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeAlias

from rollouts.errors import ConfigError, ErrorRecord, InvalidGroundTruth, VerifierError
from rollouts.identity import canonical_json
from rollouts.records import Prompt, Rollout, StopReason, Verdict, VerdictStatus
from rollouts.verifiers import Verifier
from rollouts.verifiers.judgement import Finding, Job, judge, load_verifier
from rollouts.verifiers.registry import IN_PROCESS, VERIFIERS, verifier
from rollouts.verifiers.worker_pool import WorkerPool

_JobKey: TypeAlias = tuple[str, bytes, str]


def check_ground_truth(kind: str, ground_truth: Any) -> None:
    """Refuse a reference answer that its verifier cannot use. Cheap: mathematics is parsed only when it is used.

    Raises:
        InvalidGroundTruth: It is missing, of the wrong type, empty, or (numeric) not one finite number.
        ConfigError: There is no such kind of verifier.
    """
    verifier(kind).check(ground_truth)


class VerifierPool:
    """Scores batches of rollouts. May be shared by threads; processes start when a batch first needs them.

    Use it as a context manager, or call `close`.
    """

    def __init__(
        self,
        *,
        num_workers: int | None = None,
        limit_s: float = 2.0,
        memory_limit_bytes: int = 2 * 1024**3,
        extra_verifiers: Mapping[str, str] | None = None,
    ) -> None:
        """Set up the pool without starting anything.

        Args:
            num_workers: Worker processes; `None` for one for each CPU this process may use, at most 8.
            limit_s: Seconds of processor time one judgement may take in a worker before it counts as hung; one that
                waits instead of computing is given five times as long.
            memory_limit_bytes: Address space of a worker.
            extra_verifiers: More kinds, each with its class as `module:Class`. They run in workers.

        Raises:
            ImportError, AttributeError: The module or the class of an extra verifier does not exist.
        """
        self._workers = WorkerPool(num_workers, limit_s, memory_limit_bytes)
        self._targets = {kind: f"{cls.__module__}:{cls.__qualname__}" for kind, cls in VERIFIERS.items()}
        self._in_process = {self._targets[kind] for kind in IN_PROCESS}
        self._targets.update(extra_verifiers or {})
        self._verifiers = {kind: load_verifier(target) for kind, target in self._targets.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all workers. A batch in progress, or a later one, that needs some starts new ones."""
        self._workers.close()

    def warm_up(self) -> None:
        """Start the workers and wait until one is ready, so that the first batch does not wait for imports.

        Raises:
            VerifierError: No worker can be started.
        """
        self._workers.warm_up()

    def score_batch(self, pairs: Sequence[tuple[Prompt, Rollout]]) -> list[Verdict]:
        """Judge rollouts, each given with its prompt.

        Returns:
            One verdict for each pair, in the same order. A fault of a verifier is a verdict, never an exception.
        """
        references = {id(prompt): prompt for prompt, _ in pairs}  # a group shares one prompt
        canonical = {key: canonical_json(prompt.ground_truth) for key, prompt in references.items()}
        texts = [rollout.text for _, rollout in pairs]
        keys: list[_JobKey | None] = []
        jobs: dict[_JobKey, Job] = {}
        for (prompt, rollout), text in zip(pairs, texts, strict=True):
            key = (prompt.verifier, canonical[id(prompt)], text) if self._is_judgeable(prompt, rollout) else None
            keys.append(key)
            if key is not None and key not in jobs:
                jobs[key] = Job(self._targets[prompt.verifier], prompt.ground_truth, text)
        findings = self._findings(jobs)
        return [
            self._verdict(prompt, rollout, text, None if key is None else findings[key])
            for (prompt, rollout), text, key in zip(pairs, texts, keys, strict=True)
        ]

    def _is_judgeable(self, prompt: Prompt, rollout: Rollout) -> bool:
        """Whether there is something to judge, and somebody to judge it."""
        return rollout.error is None and _unjudgeable(rollout) is None and prompt.verifier in self._targets

    def _findings(self, jobs: dict[_JobKey, Job]) -> dict[_JobKey, Finding]:
        isolated = {key: job for key, job in jobs.items() if job.verifier not in self._in_process}
        findings = {key: judge(job) for key, job in jobs.items() if key not in isolated}
        if isolated:
            findings.update(zip(isolated, self._workers.judge(list(isolated.values())), strict=True))
        return findings

    def _verdict(self, prompt: Prompt, rollout: Rollout, text: str, finding: Finding | None) -> Verdict:
        judged_by = self._verifiers.get(prompt.verifier)
        if rollout.error is not None:
            return _verdict(rollout, prompt.verifier, judged_by, VerdictStatus.POLICY_FAILED, error=rollout.error)
        if unjudgeable := _unjudgeable(rollout):
            status, error = unjudgeable
            return _verdict(rollout, prompt.verifier, judged_by, status, error=error)
        if judged_by is None or finding is None:
            error = ErrorRecord.of(ConfigError(f"no verifier {prompt.verifier!r}"))
            return _verdict(rollout, prompt.verifier, None, VerdictStatus.VERIFIER_FAILED, error=error)
        if finding.fault is not None:
            return _failed(rollout, prompt.verifier, judged_by, finding)
        if not text.strip() or (rollout.truncated and finding.answer is None):
            finding = Finding(reward=judged_by.reward_range[0], duration_s=finding.duration_s)
            return _verdict(rollout, prompt.verifier, judged_by, VerdictStatus.MODEL_FAILED, finding)
        return _verdict(rollout, prompt.verifier, judged_by, VerdictStatus.SCORED, finding)


def _unjudgeable(rollout: Rollout) -> tuple[VerdictStatus, ErrorRecord] | None:
    """What keeps a completion from being judged, whatever the verifier; such a completion has no reward."""
    match rollout.stop_reason:
        case StopReason.CONTENT_FILTER | StopReason.ABORT:
            message = f"the server withheld the completion ({rollout.stop_reason.value})"
            return VerdictStatus.POLICY_FAILED, ErrorRecord("PolicyError", message, retryable=False)
        case StopReason.TOOL_CALLS:
            message = "the policy called a tool, which verifiers of text cannot judge"
            return VerdictStatus.VERIFIER_FAILED, ErrorRecord("VerifierError", message, retryable=False)
        case _:
            return None


def _failed(rollout: Rollout, kind: str, judged_by: Verifier, finding: Finding) -> Verdict:
    if finding.fault == "ground_truth":
        status, error = VerdictStatus.INVALID_GROUND_TRUTH, InvalidGroundTruth(finding.message)
    else:
        status, error = VerdictStatus.VERIFIER_FAILED, VerifierError(finding.message)
    return _verdict(rollout, kind, judged_by, status, finding, ErrorRecord.of(error))


def _verdict(
    rollout: Rollout,
    kind: str,
    judged_by: Verifier | None,
    status: VerdictStatus,
    finding: Finding | None = None,
    error: ErrorRecord | None = None,
) -> Verdict:
    finding = finding or Finding()
    return Verdict(
        rollout_id=rollout.rollout_id,
        prompt_id=rollout.prompt_id,
        repeat_index=rollout.repeat_index,
        reward=finding.reward,
        status=status,
        verifier=kind,
        verifier_version="" if judged_by is None else judged_by.version,
        components=finding.components,
        answer=finding.answer,
        duration_s=finding.duration_s,
        error=error,
    )
