"""``fusegpt table``: evaluations of an experiment to a CSV, or a CSV to the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusegpt.cli.options import JsonObject, input_file, output_path, results_option

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["table"]


@click.command()
@click.option("--experiment", type=JsonObject(), help="What to collect, as the workflow gives it.")
@results_option
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
    """Collect the results of an experiment, or show a table."""
    if show is not None and experiment is None and output is None:
        _show(show, against)
    elif experiment is not None and output is not None and show is None and against is None:
        from fusegpt.reports.tables import write_table

        write_table(experiment, output, results=results)
    else:
        raise click.UsageError("give either --show (and --against), or --experiment and --output")


def _show(csv: Path, against: str | None) -> None:
    from fusegpt.reports.tables import read_csv, text_table

    frame = read_csv(csv)
    if against is not None:
        from fusegpt.reports.collect import whole_models
        from fusegpt.reports.seeds import over_seeds, seeds_text

        click.echo(seeds_text(over_seeds(whole_models(frame), against), against))
        return
    click.echo(f"\n{text_table(frame)}\n")
    for line in _places(frame, csv):
        click.echo(line)


def _places(frame: DataFrame, csv: Path) -> Iterator[str]:
    """Yield lines that name the table, and the page and the models that lie beside it."""
    from fusegpt.results import layout as at
    from fusegpt.results.point import DENSE

    results = csv.parent.parent
    yield f"table        {csv}"
    page = at.report.under(results)
    if page.is_file():
        yield f"report       {page}"
    runs = frame[frame["recipe"] != DENSE][["model", "recipe_id"]].drop_duplicates()
    for model, recipe in runs.itertuples(index=False):
        names = {"model": model, "recipe": recipe}
        found = at.checkpoint.found_in(results, **names) + at.sliced.found_in(results, **names)
        if found:
            places = ",".join(each.place.name for each in found)
            yield f"checkpoints  {found[0].path.parent.parent}/{{{places}}}"
