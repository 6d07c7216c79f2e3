"""``fusegpt run``: Snakemake with the project's workflow, from any directory."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from fusegpt.cli import fusegpt_command
from fusegpt.cli import run as run_verb
from fusegpt.errors import ConfigError
from tests import forked
from tests.planned import passed_on
from tests.workflow.conftest import verbs

MAIN = "from fusegpt.cli import main; main()"


@pytest.fixture
def study(project, monkeypatch):
    """The name of a file with the project's configuration, in the directory that we are in."""
    monkeypatch.chdir(project.directory)

    def write() -> str:
        Path("my study.json").write_text(json.dumps(project.config), encoding="utf-8")
        return "my study.json"

    return write


def test_an_experiment_runs_to_its_page_where_one_stands(project, study):
    project.study.update(recipes=["dense"], evaluations=["docs"])
    line = [sys.executable, "-c", MAIN, "run", study()]
    done = subprocess.run(line, env=project.environment, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr[-2000:]
    assert (project.directory / "results/report.html").is_file()
    assert verbs(project.lines())["table"] == 1
    assert "Provided cores: 2" in done.stderr


def test_cores_a_dry_run_and_what_follows_two_dashes_reach_snakemake(project, study):
    project.config["models"]["tiny"]["source"] = f"dir:{project.directory / 'models/tiny'}"
    options = ("--cores", "1", "--dry-run", "--directory", "else where", "--", "scores")
    done = forked.run(passed_on(study(), *options), project.directory, project.environment)

    assert done.returncode == 0, done.stderr[-2000:]
    assert "rule scores:" in done.stdout and "rule table:" not in done.stdout
    assert project.lines() == []
    assert (project.directory / "else where").is_dir()


def test_the_exit_code_and_the_words_are_snakemakes(project, study):
    project.study["sparsities"] = [2]

    done = forked.run(passed_on(study()), project.directory, project.environment)

    assert done.returncode == 1
    assert "experiments.study.sparsities: must be a fraction of units in [0, 1)" in done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"experiments:\n\tstudy: {}\n", "not a YAML file: .* line 2, column 1"),
        ("# é\n".encode("latin-1"), "must be a YAML file in UTF-8, got byte 0xe9 at place 2"),
        (b"a: 1\na: 2\n", "not a YAML file: key 'a' stands twice .* line 2, column 1"),
        (b"- study\n", "must be a table of keys and values"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_before_snakemake_starts(
    tmp_path, monkeypatch, content, message
):
    monkeypatch.chdir(tmp_path)
    Path("good.yaml").write_text("experiments: {}\n")
    Path("bad.yaml").write_bytes(content)
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("Snakemake was started"))
    done = CliRunner().invoke(fusegpt_command, ["run", "good.yaml", "bad.yaml"])
    assert isinstance(done.exception, ConfigError)
    assert re.match(rf"bad\.yaml: {message}", str(done.exception))


def test_an_unknown_profile_names_the_closest(capsys):
    assert run_verb(fusegpt_command, ["run", "demo", "--profile", "slrum"]) == 2

    assert "unknown profile 'slrum'; did you mean 'slurm'?" in capsys.readouterr().err


def test_the_help_says_what_may_follow():
    said = CliRunner().invoke(fusegpt_command, ["run", "--help"]).output

    assert "run [OPTIONS] EXPERIMENT|FILE... [-- SNAKEMAKE OPTIONS]" in said
