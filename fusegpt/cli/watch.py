"""``fusegpt watch``: steps done, the current loss and the time left, while runs go on."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusegpt.cli.options import finite, output_path

if TYPE_CHECKING:
    from fusegpt.reports.progress import RunProgress
    from fusegpt.workflow.plan import Plan

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("results", type=FOLDER, default="results")
@click.option(
    "--experiment",
    "experiments",
    multiple=True,
    metavar="EXPERIMENT",
    help="Name or file; tells how many steps are planned, so that time left can be told.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1),
    callback=finite,
    default=5.0,
    show_default=True,
    help="Time between two looks.",
)
@click.option("--once", is_flag=True, help="Look once, and leave.")
@click.option("--tensorboard", type=output_path, help="Also write TensorBoard event files here.")
def watch(
    results: Path,
    experiments: tuple[str, ...],
    seconds: float,
    once: bool,
    tensorboard: Path | None,
) -> None:
    """Show how far the runs below RESULTS are, until they are done.

    Only files are read, so it works beside any scheduler and on another machine of a shared file
    system. Without --experiment it ends when nobody works on a run any more.
    """
    from fusegpt.reports.events import EventLog
    from fusegpt.reports.progress import read_progress

    plan = None
    if experiments:
        from fusegpt.workflow.files import plan_of

        plan = plan_of(experiments)
    with closing(EventLog(tensorboard)) if tensorboard else nullcontext() as log:
        shown: list[str] = []
        while True:
            planned, evaluations = (None, None) if plan is None else _planned(plan, results)
            runs = read_progress(results, planned)
            lines, done = _lines(results, runs, evaluations)
            shown = _show(lines, shown)
            if log is not None:
                log.update(results)
            if once or done:
                return
            time.sleep(seconds)


def _planned(plan: Plan, results: Path) -> tuple[dict[tuple[str, str], list[int]], list[Path]]:
    """Return the steps and the result files that are asked for, as far as that is known."""
    from fusegpt.results.layout import evaluation
    from fusegpt.workflow.targets import steps_of_runs
    from fusegpt.workflow.until import Chains, not_there

    known = Chains(plan, not_there(results), results=results).known(ahead="next")
    files = [
        evaluation.under(results, point, evaluation=name)
        for point, names in known.evaluated.items()
        for name in names
    ]
    return steps_of_runs(known), files


def _lines(
    results: Path, runs: Sequence[RunProgress], evaluations: Sequence[Path] | None
) -> tuple[list[str], bool]:
    """Return what to print, and whether this is the end."""
    from fusegpt.pace import in_words
    from fusegpt.reports.progress import as_line

    lines = [as_line(run) for run in runs] or [f"{results}: no runs yet"]
    done = all(run.is_done for run in runs)
    if evaluations is not None:
        there = sum(file.is_file() for file in evaluations)
        left = [run.seconds_left for run in runs]
        known = [value for value in left if value is not None]
        parts = [f"evaluations done {there}/{len(evaluations)}"]
        if sum(known):
            rest = "" if len(known) == len(left) else ", and what is not known"
            parts.append(f"steps: about {in_words(sum(known))} left one after another{rest}")
        lines.append("; ".join(parts))
        done = done and there == len(evaluations)
    if not any(run.is_running for run in runs) and not done:
        lines.append("nobody works on a step now")
    return lines, done


def _show(lines: list[str], shown: list[str]) -> list[str]:
    """Draw over the last look on a terminal; elsewhere print what is new."""
    terminal = sys.stdout.isatty()
    if terminal and shown:
        click.echo(f"\x1b[{len(shown)}A\x1b[J", nl=False)
    for line in lines if terminal else [line for line in lines if line not in shown]:
        click.echo(f"{time.strftime('%H:%M:%S')} {line}")
    return lines
