"""`fusegpt evaluate`: measure a model, dense or pruned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import click

from fusegpt.cli.options import (
    JsonObject,
    device_option,
    input_file,
    input_path,
    output_path,
)
from fusegpt.config import Dtype, bind
from fusegpt.errors import ConfigError, first_line
from fusegpt.evaluation import EVALS, Evaluation
from fusegpt.registry import lookup

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
@click.option("--limit", type=int, help="Use the first so many items of each task.")
@click.option("--settings", type=JsonObject(), default="{}", help="The evaluation's settings.")
@click.option("--config", type=input_file, help="A YAML file with corpora and tasks.")
@click.option("--corpora", type=JsonObject(), help="The config's corpora.")
@click.option("--tasks", type=JsonObject(), help="The config's tasks.")
@click.option("--dense", type=input_path, help="The dense model's directory, to compare speed.")
@click.option("--store", type=output_path, help="A folder that keeps what was measured, by task.")
@click.option("--dtype", type=click.Choice(get_args(Dtype)), default="bfloat16", show_default=True)
@device_option
@click.option("--output", type=output_path, required=True, help="The JSON file to write.")
def evaluate(
    model: Path,
    name: str,
    settings: dict[str, Any],
    config: Path | None,
    corpora: dict[str, Any] | None,
    tasks: dict[str, Any] | None,
    dense: Path | None,
    store: Path | None,
    dtype: str,
    device: str,
    output: Path,
    **flags: Any,
) -> None:
    """Measure a model and write the rows as JSON; a short table goes to stdout."""
    flags["corpus"] = flags.pop("data")
    given = {key: value for key, value in flags.items() if value is not None}
    evaluation = lookup(EVALS, name, "evaluation")
    bound = bind(evaluation, {**settings, **given}, f"evaluations.{name}")
    known = _read_config(config)
    reads = {
        "corpora": known.get("corpora", {}) if corpora is None else corpora,
        "tasks": known.get("tasks", {}) if tasks is None else tasks,
        "models": {"model": model, "dense": dense},
    }
    result = _run(model, evaluation, bound, reads, store, dtype=dtype, device=device)
    from fusegpt.artifacts import parent_record, write_json

    parent = parent_record(model, output.parent)
    write_json(output, {"eval": name, "settings": bound, "parent": parent, **result})
    _print_rows(result["rows"])


def _read_config(path: Path | None) -> dict[str, Any]:
    import yaml

    if path is None:
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not a readable YAML file ({first_line(error)})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must be a table of keys and values")
    return {key: content.get(key) or {} for key in ("corpora", "tasks")}


def _run(
    path: Path,
    evaluation: Evaluation,
    settings: Mapping[str, Any],
    reads: Mapping[str, Any],
    store: Path | None,
    *,
    dtype: str,
    device: str,
) -> dict[str, Any]:
    """Plan, load, measure."""
    from fusegpt.artifacts import provenance
    from fusegpt.evaluation.run import run
    from fusegpt.evaluation.store import Store, model_digest
    from fusegpt.models.load import load
    from fusegpt.runtime import device as torch_device
    from fusegpt.runtime import peak_memory_gib

    place = torch_device(device)
    plan = evaluation.load()(_directory(path), reads[evaluation.reads], **settings)
    kept = Store(store, model_digest(path)) if store and evaluation.in_parts else None
    result = run(
        evaluation,
        plan,
        lambda: load(path, dtype=dtype, device=place),
        kept,
        dtype=dtype,
        device=device,
    )
    return {
        **result,
        "dtype": dtype,
        "peak_memory_gib": round(peak_memory_gib(), 3),
        "provenance": provenance(place),
    }


def _directory(path: Path) -> Path:
    """Where the config and the tokenizer of a model lie: of a step, those of its dense model."""
    from fusegpt.models.chain import read_chain

    manifest = path if path.suffix == ".json" else path / "manifest.json"
    return read_chain(manifest).source if manifest.is_file() else path


def _print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    click.echo(f"{'task':<24} {'metric':<24} {'value':>12} {'samples':>8}")
    for row in rows:
        value = f"{row['value']:.4f}"
        line = f"{row['task']:<24} {row['metric']:<24} {value:>12} {row['num_samples']:>8}"
        error = "" if row.get("stderr") is None else f"  ± {row['stderr']:.4f}"
        note = f"  {row['note']}" if row.get("note") else ""
        click.echo(line + error + note)
