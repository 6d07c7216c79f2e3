"""``fusegpt answers``: what a teacher says of windows, for every finish that learns from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fusegpt.cli.options import (
    device_option,
    dtype_of,
    finite,
    input_file,
    input_path,
    output_path,
)

ALL = "all"


def _top_k(ctx: click.Context, param: click.Parameter, value: str) -> int | None:
    """A number of tokens, or ``all``."""
    if value == ALL:
        return None
    if not (value.isascii() and value.isdecimal() and int(value)):
        raise click.BadParameter(f"must be a number of tokens or all, got {value!r}.", ctx, param)
    return int(value)


@click.command()
@click.option("--model", required=True, type=input_path, help="Directory of the teacher.")
@click.option("--windows", required=True, type=input_file, help="The windows to answer.")
@click.option(
    "--top-k",
    default="64",
    show_default=True,
    callback=_top_k,
    help="Likeliest tokens kept at each position, or all.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0, min_open=True),
    callback=finite,
    default=1.0,
    show_default=True,
    help="What logits are divided by.",
)
@dtype_of("bfloat16")
@click.option("--output", required=True, type=output_path, help="Directory of the answers.")
@device_option
def answers(
    model: Path, windows: Path, device: str, output: Path, dtype: str, **settings: Any
) -> None:
    """Write a teacher's likeliest next tokens all along windows.

    A killed run goes on when it is started again.
    """
    from fusegpt.models.checkpoints.load import load
    from fusegpt.recovery.healing.answers import answer_windows

    answer_windows(load(model, dtype=dtype, device=device), windows, output, **settings)
