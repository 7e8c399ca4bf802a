"""The validation split: drawn by what a prompt says, so that equal prompts never lie on both sides.

The draw of one prompt does not depend on any other, so the split stays as it is when the dataset grows, and a larger
fraction only moves prompts from train to validation.
"""

from __future__ import annotations

from typing import Any, Literal

from rollouts.canonical_text import canonical_text
from rollouts.identity import content_id, unit_interval
from rollouts.records import Prompt


def split_of(prompt: Prompt, validation_fraction: float, seed: int) -> Literal["train", "validation"]:
    """Return the side a prompt belongs to.

    Prompts whose messages read the same (Unicode form and white space aside) get the same side, whatever their ids,
    reference answers and other columns.

    Args:
        prompt: Its messages decide.
        validation_fraction: Share of prompts on the validation side, 0..1; 0 puts all on the train side.
        seed: Another seed is another draw.
    """
    if validation_fraction <= 0:
        return "train"
    key = content_id("split", _folded(prompt.messages))
    return "validation" if unit_interval(seed, key) < validation_fraction else "train"


def _folded(value: Any) -> Any:
    if isinstance(value, str):
        return canonical_text(value)
    if isinstance(value, dict):
        return {key: _folded(item) for key, item in value.items()}
    return [_folded(item) for item in value] if isinstance(value, list) else value
