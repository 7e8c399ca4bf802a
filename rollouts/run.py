"""A run: settings, prompts and policy brought together, with the identities that follow from them."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import SerializeAsAny

from rollouts.identity import content_id
from rollouts.layout import run_prefix
from rollouts.references import PromptSet, Reference
from rollouts.settings import CollectSettings, PolicyAddress


class Run(Reference):
    """Everything the stages of a run need to know, and no data."""

    settings: SerializeAsAny[CollectSettings]
    prompt_set: PromptSet
    policy_urls: list[str]
    """Endpoints that are sampled, without credentials."""
    model: str
    """Model that is asked."""
    policy_version: str
    """Checkpoint, or the URLs that stand in for it."""
    verifiers: Mapping[str, str]
    """Version of each verifier in use, by kind."""

    @property
    def sampling_id(self) -> str:
        """Identity of the way of sampling."""
        return self.settings.sampling_id(self.model, self.policy_version)

    @property
    def run_id(self) -> str:
        """Identity of the dataset: 16 hexadecimal digits."""
        return content_id(
            "run",
            self.prompt_set.prompt_set_id,
            self.sampling_id,
            self.settings.num_repeats,
            dict(self.verifiers),
            self.settings.selection(),
        )[:16]

    @property
    def prefix(self) -> str:
        """Folder of the run below the output."""
        return run_prefix(self.settings.objective, self.settings.dataset_name, self.run_id)

    @property
    def num_rollouts(self) -> int:
        """Rollouts of the whole run."""
        return self.prompt_set.num_prompts * self.settings.num_repeats

    @property
    def policy(self) -> PolicyAddress:
        """Address with the model and the version that were found, so that every stage means the same policy."""
        return self.settings.policy.model_copy(update={"model": self.model, "version": self.policy_version})
