"""A job, its scheduler, or both are killed in the middle of each stage: the result is the same."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusegpt.locks import lock_path
from tests.crash.conftest import EPOCHS
from tests.crash.run import Project, configuration
from tests.forked import Running
from tests.waiting import wait_until

STAGES = ("fetch", "sample", "score", "score_dense", "fuse", "merge", "evaluate")
VICTIMS = ("job", "scheduler", "group")
CASES = [
    pytest.param(stage, victim, id=f"{stage}-{victim}") for stage in STAGES for victim in VICTIMS
]
MEASURED = ("seconds", "memory_gib", "digest", "provenance", "parent")


def target_of(project: Project, stage: str) -> Path:
    """One output of a stage, relative to the project."""
    results = project.directory / "results"
    patterns = {
        "fetch": "models/*/source.json",
        "sample": "data/*/*.parquet",
        "score": "runs/*/*/step-002/scores.json",
        "score_dense": "scores/*/*.json",
        "fuse": "runs/*/*/step-002/manifest.json",
        "merge": "checkpoints/*/*/step-002/fusegpt.json",
    }
    if stage == "evaluate":
        recipe = project.step(2).parent.name
        return Path(f"results/evaluations/tiny/{recipe}/step-002/zen.json")
    return sorted(results.glob(patterns[stage]))[0].relative_to(project.directory)


def locked(target: Path) -> Path:
    """What the job of an output holds while it works."""
    whole = target.name in ("source.json", "manifest.json", "fusegpt.json")
    return lock_path(target.parent if whole else target)


def content(file: Path) -> Any:
    """What a stage made, without times, memory and whose it is."""
    if file.suffix == ".parquet":
        return file.read_bytes()
    if file.name in ("manifest.json", "fusegpt.json", "source.json"):
        weights = sorted(file.parent.glob("*.safetensors"))
        return [weight.read_bytes() for weight in weights] or pytest.fail("no weights")
    record = json.loads(file.read_text())
    return {key: value for key, value in record.items() if key not in MEASURED}


@pytest.fixture
def without(
    uninterrupted: Project, tmp_path: Path, tiny_llama_dir: Path, request: pytest.FixtureRequest
) -> Callable[[str], Project]:
    """``without("merge")``: a copy of the finished run in which a stage has not happened."""

    def make(stage: str) -> Project:
        copy = Project(tmp_path / "a wörk dir", tiny_llama_dir, configuration(EPOCHS))
        request.addfinalizer(copy.end)
        shutil.copytree(uninterrupted.directory / "results", copy.directory / "results")
        target = copy.directory / target_of(copy, stage)
        if target.name in ("source.json", "fusegpt.json"):
            shutil.rmtree(target.parent)
        target.unlink(missing_ok=True)
        return copy

    return make


def kill(running: Running, lock: Path, victim: str) -> None:
    """SIGKILL to the job that holds a lock, to the scheduler alone, or to the whole group."""
    if victim == "group":
        running.end()
    elif victim == "scheduler":
        running.send_signal(signal.SIGKILL)
    else:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError, KeyError):
            os.kill(int(json.loads(lock.read_text())["pid"]), signal.SIGKILL)
    running.wait()


@pytest.mark.slow  # test_kills.py kills a whole run in make test
@pytest.mark.parametrize(("stage", "victim"), CASES)
def test_a_stage_killed_in_the_middle_is_made_again_as_it_was(
    stage, victim, without, uninterrupted
):
    project = without(stage)
    target = target_of(uninterrupted, stage)
    file, lock = project.directory / target, project.directory / locked(target)
    asked = (str(target), "--cores", "1")
    lock.unlink(missing_ok=True)
    running = project.start(*asked)
    wait_until(lambda: running.poll() is not None or (lock.exists() and lock.stat().st_size))
    with contextlib.suppress(AssertionError):
        running.wait(timeout=random.Random(f"{stage} {victim}").uniform(0, 2))

    kill(running, lock, victim)
    project.unlock()
    project.finish(*asked)

    if stage == "evaluate":
        made = content(file)
        file.unlink()
        shutil.rmtree(project.directory / "results/.evalcache")
        project.finish(*asked)
        assert content(file) == made
    else:
        assert content(file) == content(uninterrupted.directory / target)
    assert not list(project.directory.glob("results/**/*.tmp-*"))
