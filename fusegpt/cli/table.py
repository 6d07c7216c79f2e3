"""``fusegpt table``: evaluations of an experiment to a CSV, or a CSV to the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusegpt.cli.options import JsonObject, input_file, output_path, results_option

if TYPE_CHECKING:
    from pandas import DataFrame

    from fusegpt.results.tables import Table

__all__ = ["table"]

FEW = 5
"""Missing results that are named."""
USAGE = (
    "give either --show (and --against), or --output with an experiment (and --name, --partial)"
    " or with --experiment"
)


@click.command()
@click.argument("experiments", nargs=-1, metavar="[EXPERIMENT|FILE]...")
@click.option("--name", help="Which experiment, where these have several.")
@click.option("--partial", is_flag=True, help="Take what is there, and say what is missing.")
@click.option("--experiment", type=JsonObject(), help="What to collect, as the workflow gives it.")
@results_option
@click.option("--output", type=output_path, help="The CSV to write.")
@click.option("--show", type=input_file, help="Print this CSV, and where what belongs to it lies.")
@click.option("--against", metavar="RECIPE", help="With --show: differences over seeds from this.")
def table(
    experiments: tuple[str, ...],
    name: str | None,
    partial: bool,
    experiment: dict[str, Any] | None,
    results: Path,
    output: Path | None,
    show: Path | None,
    against: str | None,
) -> None:
    """Collect the results of an experiment, or show a table."""
    ways = (show is not None, experiment is not None, bool(experiments))
    misplaced = (against is not None and show is None) or ((name or partial) and not experiments)
    if sum(ways) != 1 or (show is None) == (output is None) or misplaced:
        raise click.UsageError(USAGE)
    if show is not None:
        _show(show, against)
    elif output is not None and experiment is not None:
        from fusegpt.reports.written import write_table

        write_table(experiment, output, results=results)
    elif output is not None:
        _collect(experiments, name, partial, results, output)


def _collect(
    experiments: tuple[str, ...], name: str | None, partial: bool, results: Path, output: Path
) -> None:
    from fusegpt.errors import ArtifactError
    from fusegpt.reports.written import write_table
    from fusegpt.results import layout as at
    from fusegpt.workflow.files import plan_of
    from fusegpt.workflow.partial import chosen, what_is_there

    plan = plan_of(experiments)
    if output.resolve().parent == at.table.under(results, experiment="any").resolve().parent:
        raise ArtifactError(f"{output}: must not lie among the workflow's tables; choose another")
    contents, missing = what_is_there(plan, chosen(plan, name), results)
    if missing and not partial:
        file, why = next(iter(missing.items()))
        raise ArtifactError(
            f"{file}: {why}, the first of {len(missing)} results that are missing; --partial takes"
            " what is there"
        )
    write_table(contents.to_json(), output, results=results, missing=missing)
    _show(output, None)


def _show(csv: Path, against: str | None) -> None:
    from fusegpt.reports.tables import read_csv, text_table
    from fusegpt.reports.written import read_table_record

    frame, record = read_csv(csv), read_table_record(csv)
    for line in _gap(record, csv) if record else ():
        click.echo(line)
    if against is not None:
        from fusegpt.reports.collect import whole_models
        from fusegpt.reports.seeds import over_seeds, seeds_text

        click.echo(seeds_text(over_seeds(whole_models(frame), against), against))
        return
    click.echo(f"\n{text_table(frame)}\n")
    for line in _places(frame, csv):
        click.echo(line)


def _gap(record: Table, csv: Path) -> Iterator[str]:
    """Yield lines that say what a table of what is there lacks."""
    for file, why in islice(record.missing.items(), FEW):
        yield f"missing      {file}: {why}"
    if len(record.missing) > FEW:
        yield f"missing      {len(record.missing) - FEW} more, see {csv.with_suffix('.json')}"
    if record.missing:
        yield f"not whole    {record.gap}"


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
