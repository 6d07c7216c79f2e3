"""Result files made by hand: a model of 12 blocks, three recipes, four removals."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest

from fusegpt.results.files import Parent

BLOCKS, LAST = 12, 4
RECIPES = {
    "macro_influence": "macro_influence-00000001",
    "macro_influence_finetune": "macro_influence_finetune-00000002",
    "fusegpt": "fusegpt-00000003",
}
REMOVED = [8, 7, 9, 5]
GAIN = {"macro_influence": 1.0, "macro_influence_finetune": 0.6, "fusegpt": 0.45}


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def evaluation(step: int, value: float, length: int = 512) -> dict[str, Any]:
    kept = [index for index in range(BLOCKS) if index not in REMOVED[:step]]
    row = {"task": "python_docs", "metric": "perplexity", "value": value, "num_samples": 20}
    row |= {"unit": "exp(nats/token)", "higher_is_better": False, "protocol": {"length": length}}
    model = {"num_blocks": BLOCKS, "kept": kept, "parameters": 28_000_000 + 3_500_000 * len(kept)}
    return {"eval": "perplexity", "settings": {"corpus": "python_docs"}, "rows": [row]} | {
        "model": model,
        "seconds": 3.0,
        "peak_memory_gib": 0.8,
    }


def unit(index: int) -> dict[str, Any]:
    return {"granularity": "block", "index": index}


def parent(file: Path, directory: Path) -> dict[str, Any]:
    found = Parent.of(file, directory)
    assert found is not None
    return found.to_json()


def write_start(run: Path, source: Path) -> None:
    directory = run / "step-000"
    record = {"kind": "start", "step": 0, "kept": list(range(BLOCKS)), "num_blocks": BLOCKS}
    write(directory / "manifest.json", record | {"parent": parent(source, directory)})


def write_step(run: Path, step: int, trained: bool, fused: bool, **more: Any) -> None:
    directory, before = (run / f"step-{k:03d}" for k in (step, step - 1))
    removed = REMOVED[step - 1]
    alive = [index for index in range(BLOCKS) if index not in REMOVED[: step - 1]]
    units = [
        unit(index)
        | {"score": 0.01 if index == removed else 0.02 * step + 0.6 * math.exp(-index / 3)}
        for index in alive
    ]
    group = [index for index in alive if index != removed and abs(index - removed) <= 3]
    scores = {"metric": "macro_influence", "settings": {}, "units": units}
    scores |= {"seconds": 2.0, "memory_gib": 0.9}
    losses = [0.05 * step * math.exp(-place / 6) + 0.01 for place in range(16)]
    rows = [{"step": place, "epoch": place // 4, "loss": loss} for place, loss in enumerate(losses)]
    manifest = {
        "kind": "step",
        "step": step,
        "unit": unit(removed),
        "score": 0.01,
        "next_score": 0.02,
        "group": group if trained else [],
        "fused_into": group if fused else [],
        "seconds": 30.0 if trained else 0.5,
        "memory_gib": 1.0 + 0.1 * step,
        "trainable_parameters": 1000 * step if trained else 0,
        "tokens": 4096 if trained else 0,
        "optimizer_steps": 16 if trained else 0,
        "flops": 2.5e9 if trained else 0.0,
        "parent": parent(before / "manifest.json", directory),
        **more,
    }
    write(directory / "scores.json", scores)
    write(directory / "training.json", {"rows": rows if trained else []})
    write(directory / "manifest.json", manifest)


PUBLISHED = """\
experiment,table,row,model,method,sparsity,metric,value,protocol,note,erratum
hand,Table I,FuseGPT,tiny,fusegpt,0.3,python_docs perplexity,40.0,"{""length"": 2048}",,printed 41
hand,Table I,dense,tiny,dense,0.0,python_docs perplexity,20.0,"{""length"": 512}",,
,Table I,FuseGPT,llama-2-7b,fusegpt,0.25,wikitext2 perplexity,7.19,"{""length"": 2048}",tuned,
"""
EXPERIMENT: dict[str, Any] = {
    "name": "hand",
    "models": {"tiny": {"num_blocks": BLOCKS, "steps": {"0.15": 2, "0.3": 4}}},
    "recipes": [
        {"name": name, "seed": 0, "id": id_} for name, id_ in {"dense": "dense", **RECIPES}.items()
    ],
    "evaluations": ["docs"],
}


def make_results(place: Path) -> Path:
    """A results folder as the workflow leaves it, with ``experiment.json`` and published values."""
    folder = place / "results"
    write(folder / "evaluations/tiny/dense/step-000/docs.json", evaluation(0, 20.0))
    source = folder / "models/tiny/source.json"
    write(source, {"kind": "model", "num_blocks": BLOCKS})
    for name, recipe_id in RECIPES.items():
        run = folder / f"runs/tiny/{recipe_id}"
        write_start(run, source)
        for step in range(1, LAST + 1):
            write_step(run, step, name != "macro_influence", name == "fusegpt")
            if step in (2, 4):
                file = folder / f"evaluations/tiny/{recipe_id}/step-{step:03d}/docs.json"
                write(file, evaluation(step, 20 + 12 * step * GAIN[name]))
    write(folder / "experiment.json", EXPERIMENT)
    (folder / "published.csv").write_text(PUBLISHED)
    return folder


def write_checkpoint(file: Path, **more: Any) -> None:
    """Write the record of a merged or a sliced model."""
    model = {"num_blocks": BLOCKS, "kept": list(range(BLOCKS)), "removed": []}
    write(file, {"kind": "checkpoint", **model, **more})


SLICED = {"kind": "slice", "sparsity": 0.3, "hidden_size": 64, "width": 48}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A results folder as the workflow leaves it."""
    return make_results(tmp_path)


@pytest.fixture
def experiment() -> dict[str, Any]:
    """What the workflow hands to the table verb."""
    return copy.deepcopy(EXPERIMENT)
