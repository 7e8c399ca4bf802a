import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from rollouts.errors import StoreError
from rollouts.journal import GROUP_COMMIT_S, Journal, read_journal
from rollouts.records import Rollout, StopReason


def make_rollout(number: int) -> Rollout:
    return Rollout(
        rollout_id=str(number),
        prompt_id="p",
        repeat_index=number,
        messages=[{"role": "user", "content": "line\nbreak \u2028"}],
        num_prompt_messages=1,
        stop_reason=StopReason.STOP,
    )


def test_what_was_appended_is_read_back_in_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "new" / "a.journal")
    for number in range(100):
        journal.append(make_rollout(number))
    journal.close()
    contents = read_journal(tmp_path / "new" / "a.journal")
    assert contents.rollouts == [make_rollout(number) for number in range(100)]
    assert contents.num_torn == 0


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_tail_is_cut_off_and_counted(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.journal"
    journal = Journal(path)
    for number in range(3):
        journal.append(make_rollout(number))
    journal.close()
    path.write_bytes(path.read_bytes()[:-cut])
    journal = Journal(path)
    assert [rollout.rollout_id for rollout in journal.recovered.rollouts] == ["0", "1"]
    assert journal.recovered.num_torn == 1
    journal.append(make_rollout(7))
    journal.close()
    assert [rollout.rollout_id for rollout in read_journal(path).rollouts] == ["0", "1", "7"]


def test_a_damaged_line_in_the_middle_loses_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    journal = Journal(path)
    for number in range(3):
        journal.append(make_rollout(number))
    journal.close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1].replace(b"stop", b"st0p") + lines[2])
    contents = read_journal(path)
    assert [rollout.rollout_id for rollout in contents.rollouts] == ["0", "2"]
    assert contents.num_torn == 1


def test_a_second_writer_is_turned_away(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a.journal")
    with pytest.raises(StoreError, match="another run is collecting this batch"):
        Journal(tmp_path / "a.journal")
    journal.close()
    Journal(tmp_path / "a.journal").close()


def _append_for_ever(path: Path) -> None:
    journal = Journal(path)
    number = 0
    while True:
        journal.append(make_rollout(number))
        number += 1
        time.sleep(0.001)


def test_a_killed_process_loses_at_most_the_last_group_and_its_lock(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    process = multiprocessing.get_context("spawn").Process(target=_append_for_ever, args=(path,), daemon=True)
    process.start()
    while not path.exists() or path.stat().st_size == 0:
        time.sleep(0.01)
    time.sleep(3 * GROUP_COMMIT_S)
    seen = len(read_journal(path).rollouts)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    journal = Journal(path)
    journal.close()
    ids = [int(rollout.rollout_id) for rollout in journal.recovered.rollouts]
    assert ids == list(range(len(ids)))
    assert len(ids) >= seen > 0
