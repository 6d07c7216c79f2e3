"""`fusegpt evaluate`: measure a model, dense or pruned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from fusegpt.cli.options import JsonObject, device_option, input_path, output_path
from fusegpt.config import Dtype, bind
from fusegpt.evaluation import EVALS
from fusegpt.registry import lookup

if TYPE_CHECKING:
    from fusegpt.models.model import Model

__all__ = ["evaluate"]


@click.command()
@click.option(
    "--model", type=input_path, required=True, help="A model or checkpoint directory, or a step."
)
@click.option("--eval", "name", default="perplexity", show_default=True, help="Which evaluation.")
@click.option("--data", help="A corpus by name, a text file, or a file of `fusegpt sample`.")
@click.option("--split", help="The corpus's split.")
@click.option("--length", type=int, help="Tokens per window.")
@click.option("--windows", type=int, help="Use the first so many windows.")
@click.option("--settings", type=JsonObject(), default="{}", help="The evaluation's settings.")
@click.option("--corpora", type=JsonObject(), default="{}", help="The config's corpora.")
@click.option("--dtype", type=click.Choice(get_args(Dtype)), default="bfloat16", show_default=True)
@device_option
@click.option("--output", type=output_path, required=True, help="The JSON file to write.")
def evaluate(
    model: Path,
    name: str,
    data: str | None,
    split: str | None,
    length: int | None,
    windows: int | None,
    settings: dict[str, Any],
    corpora: dict[str, Any],
    dtype: str,
    device: str,
    output: Path,
) -> None:
    """Measure a model and write the rows as JSON; a short table goes to stdout."""
    flags = {"corpus": data, "split": split, "length": length, "windows": windows}
    given = {key: value for key, value in flags.items() if value is not None}
    evaluation = lookup(EVALS, name, "evaluation")
    bound = bind(evaluation, {**settings, **given}, f"evaluations.{name}")
    result = _run(model, evaluation, bound, corpora, dtype=dtype, device=device)
    from fusegpt.artifacts import write_json

    write_json(output, {"eval": name, "settings": bound, **result})
    _print_rows(result["rows"])


def _run(
    path: Path,
    evaluation: Any,
    settings: Mapping[str, Any],
    corpora: Mapping[str, Any],
    *,
    dtype: str,
    device: str,
) -> dict[str, Any]:
    """Plan, load, measure."""
    from fusegpt.artifacts import provenance
    from fusegpt.models.load import load
    from fusegpt.runtime import Timer, peak_memory_gib
    from fusegpt.runtime import device as torch_device

    place = torch_device(device)
    plan = evaluation.load()(_directory(path), corpora, **settings)
    model = load(path, dtype=dtype, device=place)
    with Timer() as timer:
        rows = evaluation.measurement.load()(model, plan)
    return {
        "rows": rows,
        "model": _describe(model),
        "dtype": dtype,
        "seconds": round(timer.seconds, 3),
        "peak_memory_gib": round(peak_memory_gib(), 3),
        "provenance": provenance(place),
    }


def _directory(path: Path) -> Path:
    """Where the config and the tokenizer of a model lie: of a step, those of its dense model."""
    from fusegpt.models.chain import read_chain

    manifest = path if path.suffix == ".json" else path / "manifest.json"
    return read_chain(manifest).source if manifest.is_file() else path


def _describe(model: Model) -> dict[str, Any]:
    return {
        "num_blocks": model.num_blocks,
        "kept": model.kept,
        "removed": [unit.to_json() for unit in model.removed],
        "parameters": sum(parameter.numel() for parameter in model.module.parameters()),
    }


def _print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    click.echo(f"{'task':<24} {'metric':<16} {'value':>12} {'samples':>8}")
    for row in rows:
        value = f"{row['value']:.4f}"
        click.echo(f"{row['task']:<24} {row['metric']:<16} {value:>12} {row['num_samples']:>8}")
