import hashlib
from pathlib import Path

import pytest

from rollouts.errors import ConfigError, StoreError
from rollouts.storage import Store


def test_a_written_key_is_read_back(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("a/b.json", b"{}")
    assert store.read("a/b.json") == b"{}"
    assert store.exists("a/b.json")
    assert store.size_bytes("a/b.json") == 2
    assert store.sha256("a/b.json") == hashlib.sha256(b"{}").hexdigest()
    assert store.keys("a") == ["a/b.json"]
    assert store.keys("nothing") == []


def test_a_write_that_fails_leaves_the_old_bytes_and_no_debris(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("a/b.json", b"old")
    with pytest.raises(RuntimeError), store.create("a/b.json") as file:
        file.write(b"half of the ne")
        raise RuntimeError("killed")
    assert store.read("a/b.json") == b"old"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.json"]


def test_a_missing_key_is_a_store_error_that_names_the_place(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist") as caught:
        Store(str(tmp_path)).read("gone.json")
    assert not caught.value.retryable


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/passwd"])
def test_a_key_cannot_leave_the_store(tmp_path: Path, key: str) -> None:
    with pytest.raises(StoreError, match="leave the store"):
        Store(str(tmp_path)).read(key)


def test_an_unknown_scheme_and_a_password_are_refused_without_being_repeated() -> None:
    with pytest.raises(ConfigError, match="cannot open"):
        Store("nosuchscheme://bucket")
    with pytest.raises(ConfigError) as caught:
        Store("s3://user:hunter2@bucket/x")
    assert "hunter2" not in str(caught.value)


def test_deleting_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    Store(str(tmp_path)).delete("nothing")
