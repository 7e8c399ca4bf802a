"""The table of problem families, and the one place that reads a problem out of a prompt."""

from __future__ import annotations

from pathlib import Path

from rollouts.simulator.arithmetic import ADDITION, FRACTIONS, MULTIPLICATION, PERCENTAGES, SEQUENCES
from rollouts.simulator.kinds import Category, Solution
from rollouts.simulator.puzzles import CHOICES, CONVERSIONS, LETTERS, STORIES

BUNDLED_PROMPTS: Path = Path(__file__).with_name("bundled_prompts.jsonl")
"""The prompts that come with the project: JSONL in UTF-8, fields `messages`, `ground_truth`, `verifier`, `category`."""

CATEGORIES: dict[str, Category] = {
    category.name: category
    for category in (
        ADDITION,
        MULTIPLICATION,
        FRACTIONS,
        PERCENTAGES,
        SEQUENCES,
        CONVERSIONS,
        STORIES,
        LETTERS,
        CHOICES,
    )
}
"""Every family by its name, the `category` of its prompts."""


def solve(text: str) -> Solution | None:
    """Read a problem out of any text, bundled or not.

    Wrappers around the question (a system style line, "Question: ... Answer:") do not matter, and neither do numbers
    and words that no bundled prompt has.

    Args:
        text: A user message.

    Returns:
        The solution for the first family that recognises the text, or `None` when none does. Pure.
    """
    return next((found for category in CATEGORIES.values() if (found := category.solve(text)) is not None), None)
