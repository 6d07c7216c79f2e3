"""Files are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fusegpt import artifacts
from fusegpt.artifacts import (
    atomic_directory,
    atomic_path,
    check_file,
    file_record,
    read_json,
    sha256,
    write_json,
)
from fusegpt.errors import ArtifactError
from fusegpt.provenance import provenance


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_file_appears_under_its_name_only_when_complete(tmp_path):
    with atomic_path(tmp_path / "new" / "a.txt") as partial:
        partial.write_text("half")
        assert not (tmp_path / "new" / "a.txt").exists()
        assert partial.name.startswith("a.txt.tmp-")

    assert names(tmp_path / "new") == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    (tmp_path / "a.txt").write_text("old")

    with pytest.raises(type(error)), atomic_path(tmp_path / "a.txt") as partial:
        partial.write_text("half")
        raise error

    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_one_clear_line_and_leaves_nothing(tmp_path, error):
    (tmp_path / "a.json").write_text("{}")

    with pytest.raises(ArtifactError, match=r"a\.json: no space left on the disk"):
        with atomic_path(tmp_path / "a.json") as partial:
            partial.write_text("half")
            raise error

    assert names(tmp_path) == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "{}"


def test_a_disk_that_fills_up_on_the_last_flush_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(artifacts.os, "fsync", full)

    with pytest.raises(ArtifactError, match="no space left"):
        write_json(tmp_path / "a.json", {"a": 1})

    assert names(tmp_path) == []


@pytest.mark.parametrize(("text", "kept"), [("same", True), ("other", False)])
def test_a_file_with_the_same_bytes_stays_with_its_time(text, kept, tmp_path):
    file = tmp_path / "a.txt"
    for content in ("same", text):
        with atomic_path(file) as partial:
            partial.write_text(content)
        if content == "same":
            os.utime(file, (1, 1))

    assert (file.stat().st_mtime == 1) is kept
    assert file.read_text() == text and names(tmp_path) == ["a.txt"]


def test_a_link_is_replaced_by_the_file(tmp_path):
    (tmp_path / "real").write_text("same")
    (tmp_path / "a.txt").symlink_to("real")
    with atomic_path(tmp_path / "a.txt") as partial:
        partial.write_text("same")

    assert not (tmp_path / "a.txt").is_symlink()


def test_a_directory_appears_complete_or_not_at_all(tmp_path):
    with pytest.raises(ValueError), atomic_directory(tmp_path / "d") as partial:
        (partial / "a").write_text("a")
        raise ValueError
    assert names(tmp_path) == []

    with atomic_directory(tmp_path / "d", last="z.json") as partial:
        (partial / "a").write_text("a")
        (partial / "z.json").write_text("{}")
    assert names(tmp_path / "d") == ["a", "z.json"]


@pytest.mark.parametrize("last", [None, "z.json"])
def test_an_occupied_directory_is_refused_and_untouched(tmp_path, last):
    (tmp_path / "z.json").write_text("mine")

    with pytest.raises(ArtifactError, match="must not exist or be empty"):
        with atomic_directory(tmp_path, last=last):
            raise AssertionError("must be refused before any work")

    assert (tmp_path / "z.json").read_text() == "mine"


def test_someone_elses_files_are_never_replaced(tmp_path):
    target = tmp_path / "d"
    target.mkdir()
    (target / "thesis.tex").write_text("years")

    with pytest.raises(ArtifactError, match=r"holds 'thesis\.tex', which is not part"):
        with atomic_directory(target, last="z.json") as partial:
            (partial / "z.json").write_text("{}")

    assert names(target) == ["thesis.tex"]
    kept = [name for name in names(tmp_path) if name.startswith("d.kept-")]
    assert names(tmp_path) == ["d", *kept] and len(kept) == 1


def test_a_process_killed_between_files_leaves_no_last_file_and_a_rerun_succeeds(tmp_path):
    code = (
        "import os, sys\n"
        "from fusegpt import artifacts\n"
        "replace, moved = os.replace, []\n"
        "def die_second(source, target):\n"
        "    if moved: os.kill(os.getpid(), 9)\n"
        "    moved.append(target); replace(source, target)\n"
        "target = sys.argv[1]; os.mkdir(target); open(target + '/a', 'w').write('stale')\n"
        "with artifacts.atomic_directory(target, last='z.json') as partial:\n"
        "    for name in ('a', 'b', 'z.json'): (partial / name).write_text('new')\n"
        "    os.replace = die_second\n"
    )
    target = tmp_path / "d"
    done = subprocess.run([sys.executable, "-c", code, str(target)])
    assert done.returncode == -9
    assert names(target) == ["a"]

    with atomic_directory(target, last="z.json") as partial:
        for name in ("a", "b", "z.json"):
            (partial / name).write_text("newer")

    assert {path.read_text() for path in target.iterdir()} == {"newer"}
    assert names(target) == ["a", "b", "z.json"]


def test_json_keeps_order_and_refuses_nan(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": "é"})

    assert list(read_json(tmp_path / "a.json")) == ["b", "a"]
    with pytest.raises(ValueError):
        write_json(tmp_path / "nan.json", float("nan"))
    assert names(tmp_path) == ["a.json"]


def test_a_missing_or_corrupt_json_file_is_one_line(tmp_path):
    (tmp_path / "half.json").write_text('{"a":')

    with pytest.raises(ArtifactError, match=r"none\.json: cannot be read: no such file"):
        read_json(tmp_path / "none.json")
    with pytest.raises(ArtifactError, match=r"half\.json: not valid JSON"):
        read_json(tmp_path / "half.json")


def test_a_changed_byte_is_found(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"abc")
    record = file_record(file)
    check_file(file, record)

    file.write_bytes(b"abd")
    with pytest.raises(ArtifactError, match="checksum must be ba7816bf"):
        check_file(file, record)
    file.write_bytes(b"ab")
    with pytest.raises(ArtifactError, match="must have 3 bytes, got 2"):
        check_file(file, record)
    os.remove(file)
    with pytest.raises(ArtifactError, match="missing, though its manifest lists it"):
        check_file(file, record)
    with pytest.raises(ArtifactError, match="cannot be read"):
        sha256(file)


def test_provenance_names_code_libraries_and_device_but_not_the_machine():
    notes = provenance("cpu")

    assert notes["libraries"]["torch"]
    assert notes["device"] == "cpu"
    assert os.uname().nodename not in str(notes).split()
