"""Allocators are set, and tables still work."""

import subprocess
import sys

PROGRAM = """
import pyarrow as pa
from rollouts.lean_memory import use_lean_memory
use_lean_memory()
assert pa.default_memory_pool().backend_name == "system"
print(pa.table({"x": list(range(1000))}).column("x").to_pylist()[-1])
"""


def test_arrow_uses_the_memory_of_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "999"
