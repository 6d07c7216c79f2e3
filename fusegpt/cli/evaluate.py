"""`fusegpt evaluate`: measure a model, dense or pruned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pydantic import Field, ValidationError

from fusegpt.cli.options import (
    Entries,
    checked_entries,
    devices_option,
    dtype_of,
    input_file,
    input_path,
    output_path,
    settings_options,
    weights_option,
)
from fusegpt.config import Dtype, Strict, Weights, explain
from fusegpt.errors import ConfigError
from fusegpt.evaluation import EVALS
from fusegpt.methods import bind
from fusegpt.registry import lookup

if TYPE_CHECKING:
    from fusegpt.evaluation.together import Asked
    from fusegpt.results.models import Row

__all__ = ["evaluate"]


USUAL = {"eval": "perplexity", "dtype": "bfloat16"}
"""Options that have a value without being given."""
ONE_BY_NAME = "NAME={eval, dtype, settings, corpora, tasks}"


class Named(Strict):
    """An evaluation of the configuration."""

    eval: str
    dtype: Dtype
    settings: dict[str, Any]
    corpora: dict[str, Any] = Field(default={})
    tasks: dict[str, Any] = Field(default={})


class NamedEntry(click.ParamType):  # type: ignore[type-arg]
    """An evaluation of the configuration with its name."""

    name = ONE_BY_NAME

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, dict[str, Any]]:
        """Split at the first ``=``; the rest is JSON."""
        name, _, text = value.partition("=")
        from fusegpt.yaml_files import read_json_text

        where = f"--evaluation {name}"
        try:
            entry = Named.model_validate(read_json_text(text)).model_dump()
        except ValidationError as error:
            raise ConfigError(explain(error, where, Named)) from None
        except (ValueError, RecursionError):
            self.fail(f"must be {ONE_BY_NAME} in JSON, got {value!r:.200}", param, ctx)
        for kind in ("corpora", "tasks"):
            checked_entries(kind, entry[kind], f"{where}: {kind}")
        return name, entry


@click.command()
@click.option(
    "--model", type=input_path, required=True, help="A model or checkpoint directory, or a step."
)
@click.option(
    "--eval", "name", default=USUAL["eval"], show_default=True, help=f"One of {', '.join(EVALS)}."
)
@click.option("--data", help="A corpus by name, a text file, or a file of `fusegpt sample`.")
@click.option("--split", help="The corpus's split; test unless given.")
@click.option("--length", type=int, help="Tokens per window; 2048 unless given.")
@click.option("--windows", type=int, help="Use the first so many windows; all unless given.")
@click.option(
    "--limit", type=int, help="Use the first so many items of each task; all unless given."
)
@settings_options("Settings of the evaluation", "tasks=[piqa]")
@click.option("--config", type=input_file, help="A YAML file with corpora and tasks.")
@click.option("--corpora", type=Entries("corpora"), help="The config's corpora.")
@click.option("--tasks", type=Entries("tasks"), help="The config's tasks.")
@click.option("--dense", type=input_path, help="The dense model's directory, to compare speed.")
@click.option("--store", type=output_path, help="A folder that keeps what was measured, by task.")
@dtype_of(USUAL["dtype"])
@click.option(
    "--evaluation",
    "entries",
    type=NamedEntry(),
    multiple=True,
    help="In place of the options above: each has an --output NAME.json; they share the model.",
)
@weights_option
@devices_option
@click.option("--output", type=output_path, required=True, multiple=True, help="JSON to write.")
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
    entries: Sequence[tuple[str, dict[str, Any]]],
    weights: Weights,
    device: str,
    output: Sequence[Path],
    **flags: Any,
) -> None:
    """Measure a model: rows as JSON, and a short table on stdout."""
    flags["corpus"] = flags.pop("data")
    given = {key: value for key, value in flags.items() if value is not None}
    known = {"corpora": corpora, "tasks": tasks}
    if entries:
        _check_alone({"eval": name, "dtype": dtype, "config": config, **known, **given, **settings})
    else:
        by_config = _read_config(config)
        entry = {"eval": name, "dtype": dtype, "settings": {**settings, **given}}
        entry |= {key: by_config[key] if own is None else own for key, own in known.items()}
        entries = [(output[0].stem, entry)]
    places = _places([name for name, _ in entries], output)
    models = {"model": model, "dense": dense}
    asked = [_asked(entry, models, places[name]) for name, entry in entries]
    if dense is not None and not any(one.settings.reads == "models" for one in asked):
        raise click.UsageError("'--dense' is for evaluations that compare with it, such as speed.")
    dtypes = sorted({entry["dtype"] for _, entry in entries})
    if len(dtypes) > 1:
        raise click.UsageError(f"--evaluation: all must have one dtype, got {', '.join(dtypes)}.")
    from fusegpt.evaluation.together import evaluate_together

    place = {"dtype": dtypes[0], "device": device, "weights": weights}
    for result in evaluate_together(model, asked, store, **place):
        _print_rows(result.rows)


def _check_alone(options: Mapping[str, Any]) -> None:
    """Refuse options that an entry of the configuration stands in place of."""
    for option, value in options.items():
        if value is not None and value != USUAL.get(option):
            raise click.UsageError(
                f"--evaluation: must come without {option!r}, got {value!r:.80}; it says all."
            )


def _places(names: Sequence[str], outputs: Sequence[Path]) -> dict[str, Path]:
    """Which output is whose."""
    places = {output.stem: output for output in outputs}
    if sorted(places) != sorted(names) or len(places) != len(outputs):
        raise click.UsageError(
            "--output: must be one NAME.json for each evaluation, got"
            f" {', '.join(map(str, outputs))} for {', '.join(names)}."
        )
    return places


def _asked(entry: Mapping[str, Any], models: Mapping[str, Path | None], output: Path) -> Asked:
    """Check an entry's settings and fill in the defaults."""
    from fusegpt.evaluation.together import Asked

    evaluation = lookup(EVALS, entry["eval"], "evaluation")
    where = f"evaluations.{entry['eval']}"
    bound = bind(evaluation, entry["settings"], where)
    bound.check_dtype(entry["dtype"], where)
    reads = {**entry, "models": models, "nothing": {}}[bound.reads]
    return Asked(entry["eval"], bound, reads, output)


def _read_config(path: Path | None) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if path is not None:
        from fusegpt.workflow.files import read_config

        content = read_config(path)
    return {
        kind: checked_entries(kind, content.get(kind), f"{path}: {kind}")
        for kind in ("corpora", "tasks")
    }


def _print_rows(rows: Sequence[Row]) -> None:
    click.echo(f"{'task':<24} {'metric':<24} {'value':>12} {'samples':>8}")
    for row in rows:
        line = f"{row.task:<24} {row.metric:<24} {row.value:>12.4f} {row.num_samples:>8}"
        error = "" if row.stderr is None else f"  ± {row.stderr:.4f}"
        click.echo(line + error + (f"  {row.note}" if row.note else ""))
