"""Methods of somebody else's package run from the check of an experiment to its page.

The package has an importance metric, a recovery that the shared loop trains, one after the last
removal, a width method and an evaluation, each with settings that nobody here has heard of. One
line in each table names it, and nothing else is edited. The plan and the commands come from
Snakemake itself; the commands run in this process.
"""

from __future__ import annotations

import csv
import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from transformers import AutoModelForCausalLM

from fusegpt.errors import ConfigError
from fusegpt.pruning.recipe import load_recipe
from fusegpt.results import layout as at
from fusegpt.results.history import read_history
from fusegpt.workflow.experiment import make_plan
from fusegpt.workflow.files import experiment_files, merged, plan_of, snakefile
from tests.planned import commands, fork_summaries, fusegpt

ROOT = Path(__file__).resolve().parents[2]

SETTINGS = '''
from typing import ClassVar, Literal

from pydantic import Field

from fusegpt.config import PositiveFloat, PositiveInt
from fusegpt.evaluation.settings import EvaluationSettings
from fusegpt.importance.settings import MetricSettings
from fusegpt.recovery.settings import RecoverySettings
from fusegpt.slicegpt.settings import WidthSettings


class Bulk(MetricSettings):
    """Bulk: how heavy a unit's weights are."""

    paper: ClassVar[str] = "The Book of Bulk, p. 3"
    wibble: PositiveInt = Field(default=1, description="Power of each weight.")


class Nudge(RecoverySettings):
    """Nudge a vector of the last block by the loss of the next token."""

    laps: PositiveInt = Field(default=1, description="Passes over the windows.")
    herd: PositiveInt = Field(default=4, description="Sequences of one step.")
    pluck: PositiveFloat = Field(default=0.01, description="Peak learning rate.")

    @property
    def predicts_next_token(self):
        return True

    @property
    def batch(self):
        return self.herd


class Polish(Nudge):
    """The same, once, on the model as pruned to the end."""

    when: ClassVar[Literal["step", "end"]] = "end"
    gloss: bool = Field(default=True, description="Nothing that anybody reads.")


class Squash(WidthSettings):
    """Squash the widest rows of each matrix to zero."""

    grit: PositiveFloat = Field(default=1.0, description="How much of the sparsity is taken.")


class Hum(EvaluationSettings):
    """How loud the model hums."""

    tune: str = Field(default="python_docs", description="Corpus that is hummed.")
    verse: str = Field(default="test", description="Its split.")
    octaves: PositiveInt = Field(default=2, description="Number of tokens.")

    def corpus_read(self):
        return self.tune, self.verse
'''

METHODS = """
import torch

from fusegpt.data.corpora import load_text
from fusegpt.data.tokens import encode, load_tokenizer
from fusegpt.data.windows import full_batches
from fusegpt.models.structure.replay import record
from fusegpt.models.surgery.removal import remove
from fusegpt.recovery.causal import batch_losses
from fusegpt.recovery.report import RecoveryReport
from fusegpt.recovery.training import Schedule, train


def bulk(model, batches, units, settings):
    def weigh(unit):
        parts = model.matrices(unit.index).values()
        return sum((part.double().abs() ** settings.wibble).sum().cpu() for part in parts)

    return torch.stack([weigh(unit) for unit in units])


def nudge(model, unit, windows, settings, *, seed, checkpoint=None):
    remove(model, unit)
    return polish(model, windows, settings, seed=seed, checkpoint=checkpoint)


def polish(model, windows, settings, *, seed, checkpoint=None):
    pieces, last = full_batches(windows, settings.herd), model.kept[-1]
    name, vector = next(iter(model.norms(last).items()))
    schedule = Schedule(settings.laps, len(pieces), False, seed)
    vector.requires_grad_(True)
    losses = batch_losses(model, pieces, settings.herd)
    rows = train([([vector], settings.pluck)], losses, schedule, checkpoint=checkpoint)
    vector.requires_grad_(False)
    return RecoveryReport(
        changed=[f"blocks.{last}.{name}"],
        group=[last],
        rows=rows,
        trainable_parameters=vector.numel(),
        tokens=schedule.steps * settings.herd * windows.shape[1],
        optimizer_steps=schedule.steps,
    )


@torch.no_grad()
def squash(model, batches, sparsity, settings, *, seed):
    gone = 0
    for index in model.kept:
        for matrix in model.matrices(index).values():
            count = int(float(sparsity) * settings.grit * len(matrix))
            matrix[matrix.norm(dim=1).topk(count).indices] = 0
            gone += count
    return model, {"squashed_rows": gone}


def plan(directory, corpora, settings):
    text = load_text(settings.tune, settings.verse, corpora)
    return torch.tensor([list(encode(load_tokenizer(directory), text.text))[: settings.octaves]])


@torch.no_grad()
def hum(model, ids):
    loudness = record(model, ids).hidden_out.float().abs().mean().item()
    row = {"task": "hum", "metric": "loudness", "value": loudness, "unit": "dB"}
    return [row | {"higher_is_better": False, "num_samples": 1, "protocol": {}}]
"""

LINES = """
from fusegpt.evaluation import EVALS, Evaluation
from fusegpt.importance import METRICS, Metric
from fusegpt.recovery import RECOVERIES, Recovery
from fusegpt.slicegpt import WIDTHS, Width

_HUM = ("oddities.methods:plan", "oddities.settings:Hum", "oddities.methods:hum")
LINES = [
    (METRICS, "bulk", Metric("oddities.methods:bulk", "oddities.settings:Bulk")),
    (RECOVERIES, "nudge", Recovery("oddities.methods:nudge", "oddities.settings:Nudge")),
    (RECOVERIES, "polish", Recovery("oddities.methods:polish", "oddities.settings:Polish")),
    (WIDTHS, "squash", Width("oddities.methods:squash", "oddities.settings:Squash")),
    (EVALS, "hum", Evaluation(*_HUM)),
]
"""
PLUG = "from oddities.lines import LINES\nfor table, name, line in LINES:\n    table[name] = line\n"

RECIPE = """
importance: {metric: bulk, wibble: 2}
recovery: {method: %s, laps: 2, pluck: 0.001}
calibration: {corpus: zen, sequences: 2, length: 8}
finetune: {corpus: zen, sequences: 8, length: 8}
dtype: float32
"""
WIDTH = """
width: {method: squash, grit: 0.5}
calibration: {corpus: zen, sequences: 2, length: 8}
dtype: float32
"""
NAMES = ("odd_step", "odd_end", "odd_width")


@pytest.fixture(scope="module")
def project(tmp_path_factory, tiny_llama_dir) -> Iterator[Path]:
    """A directory with an experiment, and the package where Python finds it."""
    site, work = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("work")
    (site / "oddities").mkdir()
    for name, text in (("settings", SETTINGS), ("methods", METHODS), ("lines", LINES)):
        (site / "oddities" / f"{name}.py").write_text(text)
    (site / "oddities" / "__init__.py").touch()
    (site / "sitecustomize.py").write_text(PLUG)  # the workflow is a process of its own
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(ROOT)]))
        patch.syspath_prepend(site)
        for table, name, line in importlib.import_module("oddities.lines").LINES:
            patch.setitem(table, name, line)
        patch.chdir(work)
        fork_summaries(patch)
        for name, text in zip(NAMES, (RECIPE % "nudge", RECIPE % "polish", WIDTH), strict=True):
            Path(f"{name}.yaml").write_text(text)
        Path("zen.txt").write_text("Now is better than never.\n" * 99)
        Path("study.json").write_text(json.dumps(study(tiny_llama_dir)))
        yield work
    for name in [name for name in sys.modules if name.partition(".")[0] == "oddities"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def planned(project) -> dict:
    """What is planned before anything runs."""
    return json.loads(fusegpt("plan", "study.json", "--tflops", "1", "--json"))


@pytest.fixture(scope="module")
def ran(planned) -> list[list[str]]:
    """The commands of the workflow, which all ran."""
    found = commands(Path.cwd(), "--snakefile", str(snakefile()), "--configfile", "study.json")
    for command in found:
        fusegpt(*command)
    return found


def study(model: Path) -> dict:
    return {
        "models": {"tiny": {"source": f"dir:{model}", "num_blocks": 6}},
        "corpora": {"zen": {"splits": {"train": "zen.txt", "test": "zen.txt"}}},
        "recipes": {name: yaml.safe_load(Path(f"{name}.yaml").read_text()) for name in NAMES},
        "evaluations": {
            "humming": {"eval": "hum", "tune": "zen", "octaves": 9, "dtype": "float32"}
        },
        "experiments": {
            "study": {
                "models": ["tiny"],
                "recipes": ["dense", *NAMES],
                "sparsities": [0.3],
                "evaluations": ["humming"],
                "keep_checkpoints": True,
            }
        },
    }


def test_recipes_in_files_of_their_own_are_complete_and_checked(project):
    for name in NAMES:
        recipe = load_recipe(project / f"{name}.yaml")
        assert recipe.to_json() == plan_of(["study.json"]).recipes[recipe.id].to_json()
    settings = load_recipe(project / "odd_end.yaml").to_json()["recovery"]
    assert settings == {"method": "polish", "laps": 2, "herd": 4, "pluck": 0.001, "gloss": True}


def test_a_misspelt_setting_of_theirs_is_named(project):
    config = merged(experiment_files(["study.json"]))
    config["recipes"]["odd_step"]["recovery"]["lapse"] = 3

    with pytest.raises(ConfigError, match="unknown setting 'lapse'; did you mean 'laps'"):
        make_plan(config, ROOT / "config" / "recipes")


def test_the_plan_says_what_is_not_counted(planned, ran):
    jobs = {name: count["to_run"] for name, count in planned["jobs"].items()}

    assert jobs["fuse"] == 4 and jobs["slice"] == 1 and sum(jobs.values()) == len(ran)
    assert len(planned["hours"]["not_counted"]) == len(NAMES)


def test_they_are_in_the_table_and_on_the_page(ran):
    rows = list(csv.DictReader(Path(at.table(experiment="study")).read_text().splitlines()))
    page = Path(at.report).read_text()

    assert {row["recipe"] for row in rows} == {"dense", *NAMES}
    assert len({row["value"] for row in rows if row["metric"] == "loudness"}) == 4
    assert "loudness" in page and all(name in page for name in NAMES)
    last = [read_history(found.path).steps[-1] for found in at.manifest.found_in("results", k=2)]
    assert sorted(step.optimizer_steps for step in last) == [0, 2 * 8 // 4]


def test_what_they_leave_loads_in_plain_transformers_and_names_its_source(ran):
    found = [*at.checkpoint.found_in("results"), *at.sliced.found_in("results")]

    assert len(found) == len(NAMES)
    for checkpoint in found:
        AutoModelForCausalLM.from_pretrained(checkpoint.path.parent)
        card = (checkpoint.path.parent / at.CARD).read_text()
        assert "no code besides transformers is needed" in card
        assert ("The Book of Bulk, p. 3" in card) != checkpoint.place.slices
