"""Results with every kind of file that a run leaves, made by the verbs on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from fusegpt.cli import fusegpt_command, run
from fusegpt.pruning.recipe import read_recipe
from fusegpt.recovery.resume import Checkpoint
from fusegpt.results import layout as at
from fusegpt.results.base import write
from fusegpt.results.point import Place, Point
from fusegpt.results.records import Trials
from fusegpt.workflow.dense_scores import dense_scores
from fusegpt.workflow.experiment import make_plan
from tests.fixtures.old_results.make import FUSED, configuration

RECIPES = Path(__file__).resolve().parents[2] / "config" / "recipes"


def plan_of_two() -> Any:
    """The plan of a chain, and of a slicing, with one sparsity each."""
    config = configuration()
    study = config["experiments"].pop("old")
    del config["experiments"]["timed"]
    study.update(recipes=["dense", "fusegpt", "slicegpt"], sparsities=[0.16])
    study["recipe_settings"] = {"fusegpt": {"recovery": {**FUSED, "epochs": 1}}}
    return make_plan({**config, "experiments": {"study": study}}, RECIPES)


def verb(*arguments: object) -> None:
    """Run a verb that must end well."""
    assert run(fusegpt_command, ["-q", *map(str, arguments)]) == 0, arguments


def make_everything(folder: Path, model: Path, text: Path) -> Path:
    """Make the results; return their folder.

    Args:
        folder: An empty directory.
        model: The directory of a model of six blocks.
        text: A file of text.
    """
    plan, top = plan_of_two(), folder / at.FOLDER
    corpora = json.dumps({"zen": {"splits": dict.fromkeys(("train", "test"), str(text))}})
    source = at.source.under(top, model="tiny")
    verb("fetch", "--model", f"dir:{model}", "--output", source.parent)
    for windows in plan.windows.values():
        spec = ["--sequences", windows.sequences, "--length", windows.length]
        output = at.windows.under(top, model="tiny", windows=windows.id)
        shown = ["--corpus", "zen", "--corpora", corpora, "--output", output]
        verb("sample", "--model", source.parent, *spec, *shown)
    fused, sliced = (
        next(recipe for recipe in plan.recipes.values() if recipe.name == name)
        for name in ("fusegpt", "slicegpt")
    )
    _chain(top, plan, fused)
    cut = Point("tiny", sliced.id, Place.sparsity("0.16"))
    whole = json.dumps(sliced.to_json())
    calibration = _windows(top, plan, sliced.id, "calibration")
    given = ["--recipe-settings", whole, "--sparsity", "0.16", "--calibration", calibration]
    verb("slice", "--model", source.parent, *given, "--output", at.sliced.under(top, cut).parent)
    chain = Point("tiny", fused.id, Place.step(1))
    for point in (Point.dense("tiny"), chain, cut):
        measured = folder / at.measured(point)
        file = measured if measured.name == at.MANIFEST else measured.parent
        asked = {"eval": "perplexity", "dtype": "float32", "corpora": json.loads(corpora)}
        asked["settings"] = {"corpus": "zen", "length": 16}
        output = at.evaluation.under(top, point, evaluation="zen")
        given = ["--evaluation", f"zen={json.dumps(asked)}", "--output", output]
        verb("evaluate", "--model", file, *given, "--store", at.store.under(top))
    for point in (chain, cut):
        result = at.evaluation.under(top, point, evaluation="zen")
        given = ["--evaluation", result, "--output", at.card.under(top, point)]
        verb("card", "--checkpoint", folder / at.published(point), *given)
    table, figure = (kind.under(top, experiment="study") for kind in (at.table, at.figure))
    experiment = json.dumps(plan.contents("study").to_json())
    verb("table", "--experiment", experiment, "--results", top, "--output", table)
    verb("figure", "--table", table, "--output", figure)
    page = ["--results", top, "--output", at.report.under(top)]
    verb("report", "--table", table, "--figure", figure, *page)
    _unfinished(top, fused.id)
    return top


def _windows(top: Path, plan: Any, recipe: str, role: str) -> Path:
    windows = plan.windows_of(recipe, role).id
    return at.windows.under(top, model="tiny", windows=windows)


def _chain(top: Path, plan: Any, recipe: Any) -> None:
    """The first step of a run, and its checkpoint."""
    run_, source = {"model": "tiny", "recipe": recipe.id}, at.source.under(top, model="tiny")
    start, first = (at.manifest.under(top, **run_, k=k) for k in (0, 1))
    file = at.recipe.under(top, **run_)
    whole = json.dumps(recipe.to_json())
    given = ["--recipe-settings", whole, "--recipe-output", file]
    verb("start", "--model", source, *given, "--output", start)
    assert read_recipe(file) == recipe
    shared = dense_scores(plan, recipe.id, 1)
    dense = at.dense_scores.under(top, model="tiny", scores=shared.id)
    calibration = ["--calibration", _windows(top, plan, recipe.id, "calibration")]
    alike = json.dumps(shared.recipe.to_json())
    given = ["--recipe-settings", alike, *calibration]
    verb("score", "--model", source.parent, *given, "--output", dense)
    scores = ["--dense-scores", dense, "--output", first.with_name(at.SCORES)]
    verb("score", "--model", start, "--recipe", file, *scores)
    given = ["--scores", first.with_name(at.SCORES)]
    given += ["--finetune", _windows(top, plan, recipe.id, "finetune")]
    verb("fuse", "--model", start, "--recipe", file, *given, "--output", first.parent)
    output = at.checkpoint.under(top, **run_, k=1).parent
    verb("merge", "--model", first, "--recipe", file, "--output", output)
    again = ["--calibration", _windows(top, plan, recipe.id, "calibration")]
    second = at.scores.under(top, **run_, k=2)
    verb("score", "--model", first, "--recipe", file, *again, "--output", second)


def _unfinished(top: Path, recipe: str) -> None:
    """What a killed second step leaves."""
    run_ = {"model": "tiny", "recipe": recipe, "k": 2}
    weight = torch.nn.Parameter(torch.ones(8))
    optimizer = torch.optim.Adam([weight])
    weight.grad = torch.ones(8)
    optimizer.step()
    state = Checkpoint(at.resume.under(top, **run_), "mine")
    state.save(optimizer, [{"step": 0, "loss": 0.5}], 2)
    unit = {"granularity": "block", "index": 1}
    trials = {"fingerprint": "mine", "trials": [{"unit": unit, "score": 0.1, "result": 0.2}]}
    write(at.trials.under(top, **run_), Trials.model_validate(trials))
