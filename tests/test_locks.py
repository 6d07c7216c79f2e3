"""One writer for each output, on one machine and across machines."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusegpt import locks
from fusegpt.errors import BusyError
from fusegpt.locks import holder, lock_path, sole_writer
from fusegpt.owners import me

HOLD = """
import sys, time
from fusegpt.locks import sole_writer
with sole_writer(sys.argv[1], job="theirs"):
    print("held", flush=True)
    time.sleep(3600)
"""


@contextlib.contextmanager
def start_holder(output: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until it is killed, at the end at the latest."""
    command = [sys.executable, "-c", HOLD, str(output)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def write_record(output: Path, **changes: object) -> None:
    """A lock file of a holder somewhere else; nobody holds the kernel's lock."""
    record = {"host": "elsewhere", "boot": "b", "pid": 7, "started": "1", "token": "t", **changes}
    lock_path(output).write_text(json.dumps(record))


def test_a_second_writer_leaves_with_the_name_of_the_first(tmp_path):
    with start_holder(tmp_path / "out") as first:
        expected = f"process {first.pid} on .* writes this output; try again when it ended"
        with (
            pytest.raises(BusyError, match=expected),
            sole_writer(tmp_path / "out", wait_seconds=0),
        ):
            pass
        assert f"process {first.pid}" in str(holder(tmp_path / "out"))


def test_a_killed_writers_lock_is_free_at_once(tmp_path):
    with start_holder(tmp_path / "out") as first:
        first.send_signal(signal.SIGKILL)
    assert lock_path(tmp_path / "out").exists()
    assert holder(tmp_path / "out") is None

    with sole_writer(tmp_path / "out", wait_seconds=0) as waited_for:
        assert waited_for is None


def test_a_waiting_writer_goes_on_when_the_first_ends_and_learns_what_it_did(tmp_path, monkeypatch):
    with start_holder(tmp_path / "out") as first:
        monkeypatch.setattr(time, "sleep", lambda seconds: first.kill())  # whoever sleeps waits
        with sole_writer(tmp_path / "out") as waited_for:
            assert waited_for == "theirs"
            assert first.wait() == -signal.SIGKILL


def test_nothing_is_left_beside_a_finished_output(tmp_path):
    with sole_writer(tmp_path / "new" / "out"):
        assert os.listdir(tmp_path / "new") == [".out.lock"]

    assert os.listdir(tmp_path / "new") == []


def test_of_many_writers_one_at_a_time_writes(tmp_path):
    script = (
        "import sys, time\nfrom fusegpt.locks import sole_writer\nfrom pathlib import Path\n"
        "for _ in range(5):\n"
        "    with sole_writer(sys.argv[1]):\n"
        "        Path(sys.argv[2]).mkdir()\n        time.sleep(0.01)\n"
        "        Path(sys.argv[2]).rmdir()\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "out"), str(tmp_path / "alone")]
    running = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait() for process in running] == [0, 0, 0, 0]


def test_a_holder_on_another_machine_counts_while_it_touches_its_lock(tmp_path):
    write_record(tmp_path / "out", slurm_job="41")

    message = r"process 7 on elsewhere \(slurm job 41\) writes this output"
    with pytest.raises(BusyError, match=message), sole_writer(tmp_path / "out", wait_seconds=0):
        pass
    assert "elsewhere" in str(holder(tmp_path / "out"))


def test_a_silent_holder_on_another_machine_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "SILENT_SECONDS", 0.6)
    monkeypatch.setattr(locks, "TAKE_OVER_SECONDS", 0.05)
    write_record(tmp_path / "out")

    began = time.monotonic()
    with sole_writer(tmp_path / "out", wait_seconds=240):
        assert time.monotonic() - began >= 0.6
        assert json.loads(lock_path(tmp_path / "out").read_text())["pid"] == os.getpid()


def test_a_requeued_slurm_job_takes_over_what_it_held_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "41")
    write_record(tmp_path / "out", slurm_job="41")

    with sole_writer(tmp_path / "out", wait_seconds=0):
        pass


def test_a_process_that_has_the_number_of_a_dead_holder_is_not_taken_for_it(tmp_path):
    own = me()
    write_record(tmp_path / "out", host=own["host"], boot=own["boot"], pid=1, started="-")

    with sole_writer(tmp_path / "out", wait_seconds=0):
        pass


def test_without_locks_of_the_kernel_the_owner_on_record_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "try_lock", lambda descriptor: None)
    with start_holder(tmp_path / "out"):
        with pytest.raises(BusyError), sole_writer(tmp_path / "out", wait_seconds=0):
            pass
    with sole_writer(tmp_path / "out", wait_seconds=0):
        pass


def test_a_holder_whose_lock_was_taken_leaves(tmp_path):
    script = (
        "import sys, time\nfrom fusegpt import locks\n"
        "locks.HEARTBEAT_SECONDS = locks.LOOK_SECONDS = 0.1\n"
        "with locks.sole_writer(sys.argv[1]):\n    print('held', flush=True)\n    time.sleep(240)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "out")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        write_record(tmp_path / "out")
        _, said = process.communicate()
    assert process.returncode == 75
    assert "process 7 on elsewhere took this lock; leaving" in said
