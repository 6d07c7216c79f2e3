"""Lock files: nothing of others is written through them, and none is given up unseen."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fusegpt import devices, locks
from fusegpt.errors import ArtifactError, ConfigError
from fusegpt.locks import holder, lock_path, sole_writer
from tests.waiting import wait_until

RECORD = {"host": "elsewhere", "boot": "b", "pid": 7, "started": "1", "token": "t"}


def make_link(path: Path) -> None:
    path.with_name("precious").write_text("mine")
    path.symlink_to("precious")


def make_second_name(path: Path) -> None:
    path.with_name("precious").write_text("{mine}")
    os.link(path.with_name("precious"), path)


@pytest.mark.parametrize(
    "make",
    [
        make_link,
        make_second_name,
        lambda path: path.symlink_to("nowhere"),
        lambda path: path.mkdir(),
        os.mkfifo,
        lambda path: path.write_text("my notes"),
        lambda path: path.write_bytes(b"\xff\xfe"),
    ],
    ids=["link", "second name", "dangling link", "directory", "pipe", "notes", "bytes"],
)
def test_what_is_no_lock_of_ours_is_left_alone(make, tmp_path):
    path = lock_path(tmp_path / "out")
    make(path)
    before = {each.name: each.lstat().st_ino for each in tmp_path.iterdir()}
    precious = tmp_path / "precious"
    text = precious.read_text() if precious.exists() else None

    assert holder(tmp_path / "out") is None
    with (
        pytest.raises(ArtifactError, match=r"\.out\.lock: must be a lock file of ours"),
        sole_writer(tmp_path / "out", wait_seconds=0),
    ):
        pass

    assert {each.name: each.lstat().st_ino for each in tmp_path.iterdir()} == before
    assert text is None or precious.read_text() == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "{}",
        json.dumps(RECORD | {"pid": None}),
        json.dumps(RECORD | {"pid": "7"}),
        json.dumps(RECORD | {"token": None}),
        '{"pid": ' + "[" * 3000,
    ],
)
def test_a_record_that_names_nobody_stops_nobody(text, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "TAKE_OVER_SECONDS", 0.02)
    lock_path(tmp_path / "out").write_text(text)

    assert holder(tmp_path / "out") in (None, "another process")
    with sole_writer(tmp_path / "out", wait_seconds=0):
        assert json.loads(lock_path(tmp_path / "out").read_text())["pid"] == os.getpid()
    assert not lock_path(tmp_path / "out").exists()


def damage(path: Path, how: str) -> None:
    if how == "gone":
        path.unlink()
    elif how == "a directory":
        path.unlink()
        path.mkdir()
    else:
        path.write_text({"empty": "", "torn": '{"pid": 7', "nobody": "{}"}[how])


def counted(monkeypatch, *first: dict) -> list[Path]:
    """The looks of holders at their locks; the first ones see these records."""
    looks: list[Path] = []
    owner, seen = locks.owner_of, iter(first)

    def look(path: Path) -> dict:
        looks.append(path)
        return next(seen, None) or owner(path)

    monkeypatch.setattr(locks, "owner_of", look)
    return looks


@pytest.mark.parametrize("how", ["gone", "a directory", "empty", "torn", "nobody"])
def test_a_lock_that_cannot_be_read_is_not_given_up(how, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(locks, "LOOK_SECONDS", 0.02)
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)
    looks = counted(monkeypatch)
    path = lock_path(tmp_path / "out")
    with sole_writer(tmp_path / "out"):
        damage(path, how)
        before = len(looks)
        wait_until(lambda: len(looks) > before + 5)
        if how == "gone":
            wait_until(lambda: path.read_text().endswith("}"))
            assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not left


def test_another_owner_that_is_read_once_is_not_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(locks, "LOOK_SECONDS", 0.02)
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)
    looks = counted(monkeypatch, RECORD)
    with sole_writer(tmp_path / "out"):
        wait_until(lambda: len(looks) > 5)
        assert not left
        lock_path(tmp_path / "out").write_text(json.dumps(RECORD))
        wait_until(lambda: left)


def test_the_folder_of_device_locks_must_be_ours(tmp_path, monkeypatch):
    monkeypatch.delenv("FUSEGPT_LOCKS", raising=False)
    monkeypatch.delenv("FUSEGPT_LEASES", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "theirs").mkdir()
    (tmp_path / f"fusegpt-{os.getuid()}").symlink_to("theirs")

    with pytest.raises(ConfigError, match="must be a directory of this user"):
        devices._lock_file("0")
