"""The Snakefile as a user meets it: plans, targets, messages, format."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = [ROOT / "config/demo.yaml", *sorted(ROOT.glob("config/experiments/*.yaml"))]


def snakemake(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snakemake", *arguments, "-s", str(ROOT / "Snakefile")]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What the user sees; a dry run speaks on stdout, a real one on stderr."""
    return (done.stderr + done.stdout).strip().splitlines()


def jobs(output: str) -> dict[str, int]:
    """The job table of a dry run."""
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", output, re.M)}


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_every_experiment_can_be_planned_from_elsewhere(file, tmp_path):
    done = snakemake(tmp_path, "-n", "--cores", "1", "--configfile", str(file))

    assert done.returncode == 0, done.stderr[-2000:]
    counts = jobs(done.stdout + done.stderr)
    assert counts["score"] == counts["fuse"] > 0
    assert counts["report"] == 1


@pytest.mark.parametrize(
    ("target", "made", "not_made"),
    [
        ("scores", "score", "merge"),
        ("checkpoints", "merge", "evaluate"),
        ("tables", "table", "figure"),
        ("report", "report", "card"),
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
    expected = "experiments: none is named; add one with --configfile config/demo.yaml"
    assert said(done) == [expected]


def test_a_wrong_name_is_one_line_without_a_trace(project):
    project.study["recipes"] = ["fusgpt"]

    done = project.snakemake("-n")

    assert done.returncode == 1
    expected = "experiments.study.recipes: unknown recipe 'fusgpt'; did you mean 'fusegpt'? known: "
    assert said(done)[-1].startswith(expected)
    assert not any("Traceback" in line or ".smk" in line for line in said(done))


def test_the_workflow_passes_snakemakes_lint(project):
    done = project.snakemake("--lint")

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_formatted():
    if shutil.which("snakefmt") is None:
        pytest.skip("snakefmt is not installed")
    command = ["snakefmt", "--check", "Snakefile", "rules"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
