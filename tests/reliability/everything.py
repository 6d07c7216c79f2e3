"""Results with every kind of file that a run leaves, made by the verbs on a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fusegpt.recovery.resume import Checkpoint
from fusegpt.results import layout as at
from fusegpt.results.base import write
from fusegpt.results.recovered import Trials
from tests.crash.run import Project, configuration
from tests.planned import commands, fusegpt


def make_everything(folder: Path, model: Path) -> Path:
    """Make the results of a chain and of a slicing, and what a killed step leaves.

    Args:
        folder: An empty directory.
        model: The directory of a model of six blocks.

    Returns:
        The folder of results.
    """
    config = configuration(epochs=1, steps=1)
    config["experiments"]["study"]["recipes"] = ["dense", "fusegpt", "slicegpt"]
    config["experiments"]["study"]["settings"].pop("recovery")
    small = {"group_size": 2, "rank": 2, "lora_rank": 2, "epochs": 1, "batch_size": 4}
    config["experiments"]["study"]["recipe_settings"] = {"fusegpt": {"recovery": small}}
    project = Project(folder / "work", model, config)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.directory)
        for words in commands(project.directory, *project.command()):
            fusegpt(*words)
    results = project.directory / at.FOLDER
    (run,) = (one for one in at.recipe.found_in(results) if one.names["recipe"].startswith("fuse"))
    _unfinished(results, {**run.names, "k": 2})
    return results


def _unfinished(results: Path, step: dict[str, str | int]) -> None:
    """What a killed step leaves: the state of its tuning, and finished trials."""
    weight = torch.nn.Parameter(torch.ones(8))
    optimizer = torch.optim.Adam([weight])
    weight.grad = torch.ones(8)
    optimizer.step()
    state = Checkpoint(at.resume.under(results, **step), "mine")
    state.save(optimizer, [{"step": 0, "loss": 0.5}], 2)
    unit = {"granularity": "block", "index": 1}
    trials = {"fingerprint": "mine", "trials": [{"unit": unit, "score": 0.1, "result": 0.2}]}
    write(at.trials.under(results, **step), Trials.model_validate(trials))
