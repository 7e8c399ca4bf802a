"""Writes the bundled prompts: `python -m rollouts.simulator.make_prompts`.

The file is a function of this code alone: the same bytes on every machine. Editing a category or `COUNTS` means
running this again, and a test compares the file with what this would write.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random

from rollouts.simulator.kinds import Category, Problem
from rollouts.simulator.problems import BUNDLED_PROMPTS, CATEGORIES

COUNTS: dict[str, int] = {name: 120 if name == "addition" else 25 for name in CATEGORIES}
"""Rows of each category. Addition has most, because it is all that a very small real model can learn."""


def _distinct(category: Category, count: int) -> Iterator[Problem]:
    rng = Random(f"bundled prompts: {category.name}")
    texts: set[str] = set()
    while len(texts) < count:
        problem = category.make(rng)
        if problem.text not in texts:
            texts.add(problem.text)
            yield problem


def bundled_rows() -> list[dict[str, object]]:
    """Make the rows of the file, in order: distinct, and with the categories mixed so that a `limit` meets several."""
    rows: list[dict[str, object]] = [
        {
            "messages": [{"role": "user", "content": problem.text}],
            "ground_truth": problem.ground_truth,
            "verifier": problem.verifier,
            "category": name,
        }
        for name, count in COUNTS.items()
        for problem in _distinct(CATEGORIES[name], count)
    ]
    Random("bundled prompts: order").shuffle(rows)
    return rows


def bundled_text() -> str:
    """Return the whole content of the file."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in bundled_rows())


if __name__ == "__main__":
    BUNDLED_PROMPTS.write_text(bundled_text(), encoding="utf-8", newline="\n")
