"""Real runs, killed: they end with the same bytes, and two writers never meet."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from safetensors import safe_open

from fusegpt.artifacts import check_file
from fusegpt.locks import holder
from tests.crash.run import Project
from tests.forked import Running
from tests.waiting import wait_until

RUN = ("checkpoints", "--cores", "2")


def files(directory: Path) -> dict[str, tuple[int, int]]:
    """Every file below ``results``, and what changes when it is replaced."""
    found = {}
    for folder, _, names in os.walk(directory / "results"):
        for name in names:
            try:
                status = os.stat(os.path.join(folder, name))
            except FileNotFoundError:
                continue
            found[os.path.join(folder, name)] = (status.st_ino, status.st_mtime_ns)
    return found


def kill_after(project: Project, running: Running, changes: int, delay: float):
    """SIGKILL to the whole group ``delay`` seconds after so many changes of files."""
    before, seen = files(project.directory), 0
    while seen < changes and running.poll() is None:
        time.sleep(0.02)
        now = files(project.directory)
        seen += len(before.items() ^ now.items())
        before = now
    time.sleep(delay)
    running.end()


def is_whole(project: Project) -> None:
    """What lies under its final name is complete, and a manifest's files are what it says."""
    results = project.directory / "results"
    final = [file for file in results.rglob("*") if ".tmp-" not in str(file.relative_to(results))]
    for notes in (file for file in final if file.suffix == ".json"):
        json.loads(notes.read_text())
    for manifest in results.glob("runs/*/*/*/manifest.json"):
        for name, record in json.loads(manifest.read_text()).get("files", {}).items():
            check_file(manifest.parent / name, record)
    for weights in (file for file in final if file.suffix == ".safetensors"):
        with safe_open(weights, framework="pt") as file:
            assert file.keys()


@pytest.mark.parametrize(
    ("kills", "seed"), [(1, 1), pytest.param(20, 0, marks=pytest.mark.slow)], ids=["1", "20"]
)
def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(
    uninterrupted, project, kills, seed
):
    draw = random.Random(seed)
    killed = project(prepared=kills < 20)
    last = uninterrupted.step(2) / "manifest.json"
    run = RUN if kills == 20 else (str(last.relative_to(uninterrupted.directory)), *RUN[1:])
    resumed = 0
    for _ in range(kills):
        kill_after(killed, killed.start(*run), draw.randint(1, 40), draw.uniform(0, 0.6))
        is_whole(killed)
        resumed += any(killed.directory.glob("results/runs/*/*/*/resume.safetensors"))
        killed.unlock()
    killed.finish(*run)

    left = killed.weights()
    assert left == {name: uninterrupted.weights()[name] for name in left}
    assert len(left) == (5 if kills == 20 else 4)
    assert not list(killed.directory.glob("results/**/resume.safetensors"))
    assert resumed or kills < 20


@pytest.mark.slow
def test_an_orphan_and_its_successor_never_write_the_same_step(uninterrupted, project):
    run = project(prepared=True)
    until_step = f"results/runs/tiny/{uninterrupted.step(2).parent.name}/step-002/manifest.json"
    scheduler = run.start(until_step, "--cores", "2")
    lock = run.step(2).parent / ".step-002.lock"
    wait_until(lambda: lock.read_text().endswith("}"))  # its record is whole
    orphan = int(json.loads(lock.read_text())["pid"])
    os.kill(orphan, signal.SIGSTOP)  # it holds still while its successor arrives
    scheduler.send_signal(signal.SIGKILL)
    scheduler.wait()
    assert f"process {orphan}" in str(holder(run.step(2)))

    run.unlock()
    successor = run.start(until_step, "--cores", "2")
    log = run.directory / "logs/fuse/tiny" / run.step(2).parent.name / "step-002.log"

    def waits() -> bool:  # Snakemake takes the first job's log away before the second one's comes
        return f"waiting for process {orphan} on" in log.read_text(errors="replace")

    wait_until(waits)
    assert not (run.step(2) / "manifest.json").exists()
    os.kill(orphan, signal.SIGCONT)

    assert successor.wait() == 0
    assert "finished by the process waited for" in log.read_text(errors="replace")
    name = "delta.safetensors"
    assert (run.step(2) / name).read_bytes() == (uninterrupted.step(2) / name).read_bytes()


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_nothing_trusted(uninterrupted, tmp_path):
    step, room = uninterrupted.step(1), tmp_path / "small"
    room.mkdir()
    (windows,) = (
        file
        for file in uninterrupted.directory.glob("results/data/tiny/*.parquet")
        if file.stat().st_size == max(f.stat().st_size for f in file.parent.glob("*.parquet"))
    )
    script = (
        'mount -t tmpfs -o size=48k tmpfs "$1" || exit 99; shift; "$@"; code=$?;'
        ' ls -A "$0/step-001"; exit $code'
    )
    verb = ["fusegpt", "fuse", "--model", step.parent / "step-000/manifest.json"]
    verb += ["--recipe", step.parent / "recipe.json", "--scores", step / "scores.json"]
    verb += ["--finetune", windows, "--output", room / "step-001"]
    command = ["unshare", "-rm", "sh", "-c", script, room, room, *verb]
    done = subprocess.run(
        list(map(str, command)), env=uninterrupted.environment, capture_output=True, text=True
    )
    if done.returncode in (1, 99) and "fusegpt:" not in done.stderr:
        pytest.skip(f"no file system of a chosen size: {done.stderr.strip()}")
    assert done.returncode == 2, done.stderr
    assert "no space left on the disk; free some, run again" in done.stderr.splitlines()[-1]
    assert done.stdout.split() == []
