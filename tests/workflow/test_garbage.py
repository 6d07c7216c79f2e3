"""`fusegpt gc`: what it lists, what it leaves, and that a running job's files stay."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path

import pytest
from click.testing import CliRunner

from fusegpt.cli import fusegpt_command
from fusegpt.locks import sole_writer
from fusegpt.workflow.dense_scores import all_dense_scores
from fusegpt.workflow.files import plan_of
from fusegpt.workflow.garbage import find


@pytest.fixture
def place(tmp_path, project):
    """A directory with everything the study makes, as empty files, and its configuration."""
    project.command()
    for path in _everything(project):
        file = tmp_path / "here" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return tmp_path / "here"


def _everything(project):
    made = plan_of([str(project.directory / "study.json")])
    yield "results/models/tiny/source.json"
    yield from (f"results/data/tiny/{name}.parquet" for name in made.windows)
    yield from (f"results/scores/tiny/{name}.json" for name in all_dense_scores(made))
    for point in made.evaluated:
        model, recipe, step = point.model, point.recipe, point.place.number
        if step:
            for k in range(step + 1):
                yield f"results/runs/{model}/{recipe}/step-{k:03d}/manifest.json"
            yield f"results/checkpoints/{model}/{recipe}/step-{step:03d}/fusegpt.json"
            yield f"results/cards/{model}/{recipe}/step-{step:03d}.md"
        for name in ("docs", "short"):
            yield f"results/evaluations/{model}/{recipe}/step-{step:03d}/{name}.json"
    yield from ("results/tables/study.csv", "results/tables/study.json")
    yield from ("results/figures/study.svg", "results/report.html")


def gc(project, place: Path, *arguments: str) -> list[str]:
    study = project.directory / "study.json"
    study.write_text(json.dumps(project.config))
    line = ["gc", str(study), "--directory", str(place), *arguments]
    done = CliRunner().invoke(fusegpt_command, line)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output.splitlines()


def test_what_an_experiment_names_stays(project, place):
    assert gc(project, place, "--delete") == ["nothing to remove"]


def test_a_directory_without_results_is_named(project, tmp_path):
    study = project.directory / "study.json"
    study.write_text(json.dumps(project.config))
    done = CliRunner().invoke(fusegpt_command, ["gc", str(study), "--directory", str(tmp_path)])
    assert str(done.exception) == f"{tmp_path}/results: no such directory; see --directory"


def test_a_smaller_experiment_leaves_runs_steps_and_evaluations_to_collect(project, place):
    later = next((place / "results/runs/tiny").iterdir()) / "step-002"
    later.mkdir()
    project.study["recipes"].remove("fusegpt")
    project.study["evaluations"].remove("short")

    listed = gc(project, place)

    assert listed[-1].endswith("can go; remove with --delete")
    text = "\n".join(listed)
    assert "runs/tiny/fusegpt-" in text and "short.json" in text
    assert "models/tiny" not in text
    assert later.is_dir()
    gc(project, place, "--delete")
    assert gc(project, place) == ["nothing to remove"]
    assert not [x for x in place.glob("results/*/tiny/fusegpt-*/**/*") if x.is_file()]
    assert (place / "results/models/tiny/source.json").is_file()


def test_a_step_behind_the_last_one_named_can_go(project, place):
    run = next((place / "results/runs/tiny").iterdir())
    (run / "step-002").mkdir()
    (run / "step-003").mkdir()

    listed = gc(project, place, "--delete")

    assert [line.split()[-1][-8:] for line in listed[:2]] == ["step-003", "step-002"]
    assert (run / "step-001/manifest.json").is_file()
    assert not (run / "step-002").exists()


def test_parts_of_scores_stay_until_they_are_added_up(project, place):
    [run] = place.glob("results/runs/tiny/fusegpt-*")
    [dense, *_] = place.glob("results/scores/tiny/*.json")
    steps = place / "results/parts/tiny" / run.name
    parts = [steps / "step-001/1-of-2.json", steps / "step-009/1-of-2.json"]
    parts.append(place / "results/parts/tiny" / dense.stem / "1-of-2.json")
    for part in parts:
        part.parent.mkdir(parents=True)
        part.touch()
    dense.unlink()
    gc(project, place, "--delete")
    assert [part.is_file() for part in parts] == [True, False, True]

    for scores in (dense, run / "step-001/scores.json"):
        scores.touch()
    gc(project, place, "--delete")
    assert not any(part.is_file() for part in parts)


def test_a_running_jobs_output_stays(project, place):
    project.study["recipes"].remove("fusegpt")
    [run] = place.glob("results/runs/tiny/fusegpt-*")

    with sole_writer(run / "step-001"):
        listed = gc(project, place, "--delete")

    assert any("in use by process" in line and str(run) in line for line in listed)
    assert (run / "step-001/manifest.json").is_file()
    gc(project, place, "--delete")
    assert not run.exists()


def test_what_snakemake_has_locked_stays(project, place):
    project.study["recipes"].remove("fusegpt")
    [run] = place.glob("results/runs/tiny/fusegpt-*")
    locks = place / ".snakemake/locks"
    locks.mkdir(parents=True)
    output = (run / "step-001/manifest.json").relative_to(place)
    (locks / "0.output.lock").write_text(f"{output}\n")

    gc(project, place, "--delete")

    assert (run / "step-001/manifest.json").is_file()


def test_leftovers_of_a_crash_go_when_nobody_touched_them_for_an_hour(project, place):
    tables = place / "results/tables"
    old, new = (tables / f"study.csv.tmp-{uuid.uuid4().hex}" for _ in range(2))
    for file in (old, new, tables / "mine.tmp-notes"):
        file.write_text("half")
    os.utime(old, (1, 1))

    gc(project, place, "--delete")

    assert not old.exists()
    assert new.exists() and (tables / "mine.tmp-notes").exists()


def test_files_that_no_experiment_could_name_are_left_alone(project, place):
    (place / "results/notes.txt").touch()
    (place / "results/store/ab").mkdir(parents=True)

    assert find(plan_of([str(project.directory / "study.json")]), place) == []
