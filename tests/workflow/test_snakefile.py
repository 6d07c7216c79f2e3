"""The Snakefile as a user meets it: plans, targets, messages, format."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import forked
from tests.quick import each, slow

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = [
    ROOT / "config" / name
    for name in ("demo.yaml", "experiments/baselines.yaml", "experiments/evaluation.yaml")
]


def snakemake(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return forked.run([*arguments, "-s", str(ROOT / "Snakefile")], directory)


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What the user sees; a dry run speaks on stdout, a real one on stderr."""
    return (done.stderr + done.stdout).strip().splitlines()


def jobs(output: str) -> dict[str, int]:
    """The job table of a dry run."""
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", output, re.M)}


def made(done: subprocess.CompletedProcess[str]) -> set[str]:
    """Every file that a dry run would make; which ones share a job may differ."""
    lines = re.findall(r"^    output: (.*)$", done.stdout, re.M)
    return {file for line in lines for file in line.split(", ")}


@pytest.mark.parametrize(
    "file", each(EXPERIMENTS, quick=EXPERIMENTS[:1]), ids=lambda file: file.stem
)
def test_experiments_can_be_planned_from_elsewhere(file, tmp_path):
    done = snakemake(tmp_path, "-n", "--cores", "1", "--configfile", str(file))

    assert done.returncode == 0, done.stderr[-2000:]
    counts = jobs(done.stdout + done.stderr)
    assert counts.get("score", 0) + counts["take_scores"] == counts["fuse"] > 0
    assert 0 < counts["score_dense"] <= counts["take_scores"]
    assert counts["report"] == 1


@pytest.mark.parametrize(
    ("target", "made", "not_made"),
    [
        ("scores", "take_scores", "merge"),
        slow("checkpoints", "merge", "evaluate"),
        ("tables", "table", "figure"),
        slow("report", "report", "card"),
    ],
)
def test_named_targets_stop_where_they_say(project, target, made, not_made):
    done = project.snakemake(target, "-n")

    assert done.returncode == 0, done.stderr[-2000:]
    counts = jobs(done.stdout + done.stderr)
    assert made in counts and not_made not in counts


def test_without_an_experiment_one_line_names_the_demo(tmp_path):
    done = snakemake(tmp_path, "-n", "--cores", "1")

    assert done.returncode == 1
    start = "experiments: none is named; add one with --configfile config/demo.yaml, or ask for"
    assert said(done)[-1].startswith(start)
    assert "table4-small" in said(done)[-1]


@pytest.mark.slow
def test_an_experiment_of_the_project_is_a_target_without_its_file(tmp_path):
    by_name = snakemake(tmp_path, "table4-small", "-n", "--cores", "1")
    file = str(ROOT / "config/experiments/table4-small.yaml")
    by_file = snakemake(tmp_path, "table4-small", "-n", "--cores", "1", "--configfile", file)

    assert by_name.returncode == 0, by_name.stderr[-2000:]
    counts = jobs(by_name.stdout + by_name.stderr)
    assert made(by_name) == made(by_file)
    assert counts["table"] == 1 and counts["fuse"] == 8 * 3 * 3


def test_an_experiment_cannot_take_the_name_of_a_rule(project):
    project.config["experiments"] = {"fuse": project.study}

    done = project.snakemake("-n")

    assert done.returncode == 1
    assert said(done)[-1] == "experiments.fuse: a rule has this name; choose another"


def test_a_wrong_name_is_one_line_without_a_trace(project):
    project.study["recipes"] = ["fusgpt"]

    done = project.snakemake("-n")

    assert done.returncode == 1
    expected = "experiments.study.recipes: unknown recipe 'fusgpt'; did you mean 'fusegpt'? known: "
    assert said(done)[-1].startswith(expected)
    assert not any("Traceback" in line or ".smk" in line for line in said(done))


@pytest.mark.slow
def test_the_workflow_passes_snakemakes_lint(project):
    done = project.snakemake("--lint")

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_rules_are_formatted():
    if shutil.which("snakefmt") is None:
        pytest.skip("snakefmt is not installed")
    command = ["snakefmt", "--check", "Snakefile", "rules", "examples"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
