"""``fusegpt table``: evaluations of an experiment to a CSV, or a CSV to the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fusegpt.cli.options import JsonObject, input_file, output_path

__all__ = ["table"]


@click.command()
@click.option("--experiment", type=JsonObject(), help="What to collect, as the workflow gives it.")
@click.option("--results", type=output_path, default="results", show_default=True)
@click.option("--output", type=output_path, help="The CSV to write.")
@click.option("--show", type=input_file, help="Print this CSV, and where what belongs to it lies.")
@click.option("--against", metavar="RECIPE", help="With --show: differences over seeds from this.")
def table(
    experiment: dict[str, Any] | None,
    results: Path,
    output: Path | None,
    show: Path | None,
    against: str | None,
) -> None:
    """Collect the results of an experiment (--experiment, --output) or show them (--show)."""
    if show is not None and experiment is None and output is None:
        _show(show, against)
    elif experiment is not None and output is not None and show is None and against is None:
        _collect(experiment, results, output)
    else:
        raise click.UsageError("give either --show (and --against), or --experiment and --output")


def _collect(experiment: dict[str, Any], results: Path, output: Path) -> None:
    from fusegpt.artifacts import file_record, provenance, write_json
    from fusegpt.reports.collect import collect, evaluation_files, parse_experiment
    from fusegpt.reports.tables import write_csv
    from fusegpt.results.files import Parent
    from fusegpt.runtime import Timer, peak_memory_gib

    asked = parse_experiment(experiment)
    with Timer() as timer:
        write_csv(output, collect(asked, results))
    parents = [Parent.of(file, output.parent) for file in evaluation_files(asked, results)]
    record = {
        "kind": "table",
        "experiment": experiment,
        "files": {output.name: file_record(output)},
        "parents": [parent.to_json() for parent in parents if parent is not None],
        "seconds": round(timer.seconds, 3),
        "memory_gib": round(peak_memory_gib(), 3),
        "provenance": provenance(),
    }
    write_json(output.with_suffix(".json"), record)


def _show(csv: Path, against: str | None) -> None:
    from fusegpt.reports.places import places
    from fusegpt.reports.tables import read_csv, text_table

    frame = read_csv(csv)
    if against is not None:
        from fusegpt.reports.seeds import over_seeds, seeds_text

        click.echo(seeds_text(over_seeds(frame, against), against))
        return
    click.echo(f"\n{text_table(frame)}\n")
    for line in places(frame, csv):
        click.echo(line)
