"""Results of an older commit stay valid: they verify, extend, load and report; nothing runs again.

``tests/fixtures/old_results/make.py`` made them, with depth and width, whole blocks and sublayers,
fusion folded at each step and at the end, and Snakemake's own records of what ran.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tarfile
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from fusegpt.cli import fusegpt_command
from fusegpt.models.checkpoints.load import load
from fusegpt.results.base import read
from fusegpt.results.models import Evaluation
from tests import forked
from tests.crash.run import MAIN, ROOT
from tests.planned import commands, fusegpt

ARCHIVE = ROOT / "tests/fixtures/old_results/old_results.tar.xz"
MADE_ANEW = ("all", "card", "table", "figure", "report")
"""How rules begin that summarise; what they write may look different today."""


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> Path:
    """A working directory with the old results; read-only."""
    directory = tmp_path_factory.mktemp("old") / "work"
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(directory, filter="data")
    return directory


def options(*arguments: str, config: str = "old.json") -> list[str]:
    """The arguments of Snakemake, as the documents tell."""
    where = ["--snakefile", str(ROOT / "Snakefile"), "--configfile", config]
    return [*arguments, *where, "--profile", str(ROOT / "config/profiles/default")]


def snakemake(directory: Path, *arguments: str, config: str = "old.json") -> str:
    """What Snakemake says, run as the documents tell."""
    folder = directory / "bin"
    folder.mkdir(exist_ok=True)
    script = folder / "fusegpt"
    script.write_text(f"#!/bin/sh\nexec '{sys.executable}' -c '{MAIN}' \"$@\"\n")
    script.chmod(0o755)
    paths = os.pathsep.join([str(folder), os.environ["PATH"]])
    environment = os.environ | {"PATH": paths, "PYTHONPATH": str(ROOT)}
    done = forked.run(options(*arguments, "--cores", "2", config=config), directory, environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def planned(text: str) -> dict[str, list[str]]:
    """The files that the rules of a dry run would write, but for those that summarise."""
    found: dict[str, list[str]] = {}
    for rule, block in re.findall(r"^(?:local)?rule (\w+):$(.*?)^$", text, re.M | re.S):
        written = re.findall(r"^    output: (.*)$", block, re.M)
        if not rule.startswith(MADE_ANEW):
            found.setdefault(rule, []).extend(", ".join(written).split(", "))
    return found


def of_recipe(directory: Path, kind: str, name: str) -> Path:
    """The folder of a recipe of that name, whatever its settings."""
    (found,) = (directory / "results" / kind / "tiny").glob(f"{name}-????????")
    return found


def test_every_file_is_as_its_record_says(old):
    done = CliRunner().invoke(fusegpt_command, ["verify", str(old / "results")])

    assert done.exit_code == 0, done.output
    assert "everything as they say" in done.output


def test_the_same_experiment_computes_nothing(old):
    text = snakemake(old, "-n", "--forcerun", "table")

    assert "rule table:" in text
    assert planned(text) == {}


def compare(made: pd.DataFrame, before: pd.DataFrame) -> None:
    """A table of today has what an old one has; its memory covers scoring, too, and may be more."""
    pd.testing.assert_frame_equal(
        made[before.columns.drop("memory_gib")], before.drop(columns="memory_gib")
    )
    assert (made["memory_gib"].dropna() >= before["memory_gib"].dropna()).all()


def test_a_table_by_the_experiments_file_has_the_rows_of_the_workflows(old, tmp_path, monkeypatch):
    monkeypatch.chdir(old)
    fusegpt("table", "old.json", "--name", "old", "--output", str(tmp_path / "old.csv"))

    made, workflows = pd.read_csv(tmp_path / "old.csv"), pd.read_csv("results/tables/old.csv")
    compare(made, workflows)


@pytest.fixture(scope="module")
def longer(old) -> str:
    """The name of a configuration with one sparsity more."""
    config = json.loads((old / "old.json").read_text())
    config["experiments"]["old"]["sparsities"].append(0.5)
    (old / "longer.json").write_text(json.dumps(config))
    return "longer.json"


def test_another_sparsity_computes_only_what_is_new(old, longer):
    work = planned(snakemake(old, "-n", config=longer))

    assert {"score", "fuse", "merge", "slice", "evaluate_zen"} <= set(work)
    assert [file for files in work.values() for file in files if (old / file).exists()] == []


@pytest.mark.slow
def test_old_steps_go_on(old, longer):
    step = of_recipe(old, "runs", "fusegpt_at_end") / "step-003"
    result = of_recipe(old, "evaluations", "fusegpt_at_end") / "step-003/zen.json"

    snakemake(old, str(result.relative_to(old)), config=longer)

    manifest = json.loads((step / "manifest.json").read_text())
    assert manifest["recipe"] == step.parent.name
    assert len(manifest["kept"]) == 3
    assert read(result, Evaluation).rows[0].value > 0


@pytest.mark.slow
def test_table_figure_and_page_show_the_old_values(old, monkeypatch):
    table, page = old / "results/tables/old.csv", old / "results/report.html"
    before = pd.read_csv(table)

    monkeypatch.chdir(old)
    asked = options("results/report.html", "--forcerun", "table", "figure", "report")
    for words in commands(old, *asked):
        fusegpt(*words)

    after = pd.read_csv(table)
    assert len(after) == len(before) == 1 + 8 * 2  # dense, and each recipe at two sparsities
    compare(after, before)
    assert all(name in page.read_text() for name in set(before["recipe"]))


@pytest.mark.parametrize(
    ("kind", "name", "place"),
    [
        ("runs", "fusegpt", "step-002"),
        ("runs", "fusegpt_at_end", "step-002"),
        ("runs", "macro_influence_mixed", "step-004"),
        ("runs", "replaceme", "step-002"),
        ("checkpoints", "fusegpt_at_end", "step-002"),
        ("checkpoints", "macro_influence_lora", "step-001"),
        ("checkpoints", "macro_influence_mixed", "step-002"),
        ("slices", "slicegpt", "sparsity-0.3"),
    ],
)
@torch.no_grad()
def test_steps_and_checkpoints_are_described_and_load(old, kind, name, place):
    directory = of_recipe(old, kind, name) / place

    done = CliRunner().invoke(fusegpt_command, ["info", str(directory)])
    model = load(directory, dtype="float32")

    assert done.exit_code == 0, done.output
    assert name in done.output
    assert model.module(input_ids=torch.arange(3, 9)[None]).logits.isfinite().all()


@pytest.mark.parametrize("name", ["fusegpt", "macro_influence_mixed"])
@torch.no_grad()
def test_a_step_and_its_checkpoint_compute_the_same(old, name):
    ids = torch.arange(3, 9)[None]

    step, checkpoint = (
        load(of_recipe(old, kind, name) / "step-002", dtype="float32").module(input_ids=ids).logits
        for kind in ("runs", "checkpoints")
    )

    torch.testing.assert_close(step, checkpoint)
