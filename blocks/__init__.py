"""Where things are: addresses and secrets, saved in Prefect under a name, each with one method that builds the thing."""

from blocks.artifact_store import ArtifactStore
from blocks.policy_server import PolicyServer

__all__ = ["ArtifactStore", "PolicyServer"]
