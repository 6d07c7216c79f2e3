"""`fusegpt compare`: which differences between evaluated models are real."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusegpt.cli.options import finite, input_file, output_path

if TYPE_CHECKING:
    from fusegpt.evaluation.comparison import Difference

__all__ = ["compare"]


@click.command()
@click.argument("first", type=input_file)
@click.argument("others", type=input_file, nargs=-1, required=True)
@click.option(
    "--confidence",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    callback=finite,
    default=0.95,
    show_default=True,
    help="Confidence of each interval by itself.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the draws."
)
@click.option("--output", type=output_path, help="A JSON file to write too.")
def compare(
    first: Path, others: tuple[Path, ...], confidence: float, seed: int, output: Path | None
) -> None:
    """Compare results of fusegpt evaluate item by item with FIRST."""
    from fusegpt.artifacts import write_json
    from fusegpt.evaluation import comparison
    from fusegpt.results.base import read
    from fusegpt.results.models import Evaluation

    reference = read(first, Evaluation).rows
    found = {}
    for other in others:
        rows = read(other, Evaluation).rows
        differences = comparison.compare(reference, rows, confidence=confidence, seed=seed)
        found[str(other)] = [asdict(difference) for difference in differences]
        click.echo(f"{other} against {first}, {confidence:.0%} paired bootstrap")
        click.echo(_text(differences))
    if output is not None:
        write_json(output, {"first": str(first), "confidence": confidence, "others": found})


def _text(differences: Iterable[Difference]) -> str:
    from fusegpt.reports.text import VERDICTS, aligned

    head = ("task", "metric", "first", "other", "difference", "interval", "verdict", "samples")
    rows = [
        (
            one.task,
            one.metric,
            f"{one.first:.4f}",
            f"{one.second:.4f}",
            f"{one.difference:+.4f}",
            f"[{one.low:+.4f}, {one.high:+.4f}]",
            VERDICTS[one.better],
            str(one.num_samples),
        )
        for one in differences
    ]
    return aligned(head, rows)
