import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rollouts.dataset import DatasetWriter
from rollouts.errors import StoreError
from rollouts.formats import Format, Unrepresentable
from rollouts.records import Prompt
from rollouts.selection import TrainingGroup
from rollouts.spools import ROW_GROUP_BYTES
from rollouts.storage import Store


class Texts(Format):
    """Writes the text of a prompt, with a tool column when the text says so; refuses empty texts."""

    def __init__(self, name="texts", suffix="jsonl", schema=None):
        self.name = name
        self.suffix = suffix
        self.schema = schema

    def rows(self, example, index, split, dataset):
        text = example.prompt.messages[0]["content"]
        if not text:
            raise Unrepresentable("empty_text")
        row = {"text": text, "index": index, "dataset": dataset}
        yield {**row, "tool": "hammer"} if text == "tool" else row


TABLE = Texts("table", "parquet", pa.schema([("text", pa.string()), ("index", pa.int64())]))


def make_example(text):
    prompt = Prompt(prompt_id=text, messages=[{"role": "user", "content": text}], verifier="math")
    return TrainingGroup(prompt, [], 0.0)


def write(folder, texts, formats=None, validation=()):
    store = Store(str(folder))
    with DatasetWriter(store, "sft/sums/run", formats or [Texts(), TABLE], "sums") as writer:
        for text in texts:
            writer.add(make_example(text), "train")
        for text in validation:
            writer.add(make_example(text), "validation")
        return writer.close(), writer


def test_each_format_and_split_has_a_file_with_its_facts(tmp_path):
    files, writer = write(tmp_path, ["a", "b"], validation=["c"])
    assert [(file.key, file.rows) for file in files] == [
        ("sft/sums/run/dataset/texts/train.jsonl", 2),
        ("sft/sums/run/dataset/texts/validation.jsonl", 1),
        ("sft/sums/run/dataset/table/train.parquet", 2),
        ("sft/sums/run/dataset/table/validation.parquet", 1),
    ]
    for file in files:
        data = (tmp_path / file.key).read_bytes()
        assert file.size_bytes == len(data)
        assert file.sha256 == hashlib.sha256(data).hexdigest()
    assert writer.num_examples == {"train": 2, "validation": 1}


def test_the_same_examples_give_the_same_bytes(tmp_path):
    texts = ["a", "ä", "tool", "b"]
    first, _ = write(tmp_path / "one", texts)
    second, _ = write(tmp_path / "two", texts)
    assert first == second


def test_json_is_compact_utf8_with_one_line_a_row(tmp_path):
    write(tmp_path, ["ä\n"])
    assert (tmp_path / "sft/sums/run/dataset/texts/train.jsonl").read_bytes() == (
        '{"text":"ä\\n","index":0,"dataset":"sums"}\n'.encode()
    )


def test_a_refused_example_is_counted_by_format_and_reason(tmp_path):
    files, writer = write(tmp_path, ["a", "", ""])
    assert [file.rows for file in files] == [1, 1]
    assert writer.refused == {"texts": {"empty_text": 2}, "table": {"empty_text": 2}}


def test_a_split_without_rows_has_no_file(tmp_path):
    files, _ = write(tmp_path, ["a"], validation=[""])
    assert [file.split for file in files] == ["train", "train"]
    assert not (tmp_path / "sft/sums/run/dataset/texts/validation.jsonl").exists()


def test_rows_of_a_new_shape_come_first_and_the_others_keep_their_order(tmp_path):
    write(tmp_path, ["a", "b", "c", "tool", "d", "tool", "e"], [Texts()])
    lines = (tmp_path / "sft/sums/run/dataset/texts/train.jsonl").read_text().splitlines()
    assert [int(line.split('"index":')[1].split(",")[0]) for line in lines] == [0, 3, 1, 2, 4, 5, 6]


def test_large_parquet_files_have_several_row_groups(tmp_path):
    texts = [f"{i}" + "x" * (ROW_GROUP_BYTES // 4) for i in range(9)]
    files, _ = write(tmp_path, texts, [TABLE])
    parquet = pq.ParquetFile(tmp_path / files[0].key)
    assert parquet.num_row_groups == 3
    assert parquet.read()["index"].to_pylist() == list(range(9))


def test_nothing_is_published_before_close_and_the_spool_goes_away(tmp_path):
    store = Store(str(tmp_path))
    with DatasetWriter(store, "run", [Texts()], "sums") as writer:
        writer.add(make_example("a"), "train")
        spool = Path(writer._folder.name)
        assert spool.is_dir()
        assert not list(tmp_path.iterdir())
    assert not spool.exists()


def test_a_store_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "run").write_text("a file where a folder has to be")
    with DatasetWriter(Store(str(tmp_path)), "run", [Texts()], "sums") as writer:
        writer.add(make_example("a"), "train")
        with pytest.raises(StoreError):
            writer.close()
