"""Results in another place, with other times and without Snakemake's records, are results still."""

from __future__ import annotations

import os
import random
import shutil

import pytest

from tests.workflow.conftest import Project, _install


@pytest.fixture(params=[pytest.param("times kept", marks=pytest.mark.slow), "times lost"])
def copied(finished, tmp_path, request) -> Project:
    """A copy of ``results`` alone; its times are kept, or say nothing of what came first."""
    place = tmp_path / "elsewhere"
    _install(place)
    shutil.copytree(finished.directory / "results", place / "results")
    if request.param == "times lost":
        files = sorted(file for file in place.rglob("results/**/*") if file.is_file())
        random.Random(0).shuffle(files)
        for second, file in enumerate(files):
            os.utime(file, (1_700_000_000 + second,) * 2)
    return Project(place)


@pytest.mark.slow
def test_a_copy_of_results_runs_nothing_again_and_changes_are_seen(copied):
    done = copied.snakemake("--touch", "--forceall")
    assert done.returncode == 0, done.stderr[-2000:]

    assert copied.started() == [] and copied.lines() == []
    copied.config["evaluations"]["short"]["windows"] = 3
    planned = copied.snakemake("-n").stdout
    assert "evaluate_docs_short" in planned and "Params have changed" in planned


@pytest.mark.slow
def test_a_corpus_that_was_written_again_with_equal_contents_reruns_nothing(project):
    text = project.directory / "mine.txt"
    text.write_text("a b c\n" * 300_000)  # above the limit of plain Snakemake
    project.config["corpora"] = {"mine": {"splits": dict.fromkeys(("train", "test"), "mine.txt")}}
    project.study["settings"] = {
        role: {"corpus": "mine", "sequences": 8, "length": 16}
        for role in ("calibration", "finetune")
    }
    project.study.update(recipes=["macro_influence"], evaluations=["docs"], keep_checkpoints=False)
    assert any(line.startswith("sample") for line in project.started("scores"))

    text.write_text("a b c\n" * 300_000)
    os.utime(text)

    assert project.started("scores") == []
    text.write_text("a b d\n" * 300_000)
    assert any(line.startswith("sample") for line in project.started("scores"))
