import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rollouts.hashed_file import create_hashed
from rollouts.storage import Store


def test_the_digest_is_that_of_the_bytes_in_the_store(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with create_hashed(store, "a.parquet") as file:
        pq.write_table(pa.table({"x": list(range(100_000))}), file, row_group_size=1000)
    assert file.sha256 == store.sha256("a.parquet")
    with create_hashed(store, "b") as file:
        assert file.write(b"ab") == 2
        file.write(memoryview(b"cd"))
    assert store.read("b") == b"abcd"
    assert file.sha256 == hashlib.sha256(b"abcd").hexdigest()


def test_a_file_that_broke_off_does_not_appear(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with pytest.raises(RuntimeError, match="broke"), create_hashed(store, "a") as file:
        file.write(b"half")
        raise RuntimeError("broke")
    assert not store.exists("a")
