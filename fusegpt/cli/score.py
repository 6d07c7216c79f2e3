"""``fusegpt score``: the importance of every remaining unit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusegpt.cli.options import (
    JsonObject,
    device_option,
    dtype_option,
    input_file,
    input_path,
    output_path,
    recipe_written_out,
    settings_options,
    weights_option,
)
from fusegpt.config import Weights
from fusegpt.results.shards import Shard

if TYPE_CHECKING:
    from fusegpt.pruning.recipe import Recipe


class ShardOf(click.ParamType):  # type: ignore[type-arg]
    """Which part of the calibration windows: ``2-of-4``."""

    name = "shard"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Shard:
        """Read both numbers; the first is at most the second."""
        if isinstance(value, Shard):
            return value
        found = re.fullmatch(r"([1-9]\d{0,5})-of-([1-9]\d{0,5})", value, re.ASCII)
        if found is None or int(found[1]) > int(found[2]):
            self.fail(
                f"must be I-of-N with I from 1 to N, such as 2-of-4, got {value!r}", param, ctx
            )
        return Shard(int(found[1]), int(found[2]))


@click.command()
@click.option("--model", required=True, type=input_path, help="Model directory or step manifest.")
@click.option("--calibration", type=input_file, help="Windows to score on, of fusegpt sample.")
@click.option("--metric", help="Importance metric, with its settings, in place of a recipe.")
@settings_options("Settings of the metric", "protect_first=2")
@dtype_option
@click.option("--recipe", help="Name or file of a recipe; says metric, settings and dtype.")
@click.option("--recipe-settings", type=JsonObject(), help="Or: a whole recipe as JSON.")
@click.option(
    "--dense-scores",
    type=input_file,
    help="Scores of the dense model, made for another recipe that scores it alike, to take over.",
)
@click.option(
    "--first-scores", type=input_file, help="Scores of step 1, which a one_shot selection keeps."
)
@click.option(
    "--count",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Blocks that a contiguous selection takes at once.",
)
@click.option(
    "--shard",
    type=ShardOf(),
    metavar="I-of-N",
    help="Score on this part of the windows alone, and write a part of the scores.",
)
@click.option(
    "--part",
    "parts",
    type=input_file,
    multiple=True,
    help="A part of the scores, once for each shard: add them up. No model is loaded.",
)
@click.option("--output", required=True, type=output_path, help="JSON to write.")
@weights_option
@device_option
def score(
    model: Path,
    calibration: Path | None,
    metric: str | None,
    settings: dict[str, Any],
    dtype: str | None,
    recipe: str | None,
    recipe_settings: dict[str, Any] | None,
    dense_scores: Path | None,
    first_scores: Path | None,
    count: int,
    shard: Shard | None,
    parts: tuple[Path, ...],
    output: Path,
    weights: Weights,
    device: str,
) -> None:
    """Score every unit; high = keep. Indices are those of the dense model."""
    chosen = _recipe(recipe, recipe_settings, metric=metric, settings=settings, dtype=dtype)
    chosen.that_removes()
    if count > 1 and chosen.selection != "contiguous":
        raise click.UsageError(f"--count is for contiguous selections, got {chosen.selection!r}.")
    if dense_scores is not None:
        from fusegpt.pruning.start import take_scores

        take_scores(dense_scores, chosen, model, output)
        return
    if calibration is None:
        raise click.UsageError("Missing option '--calibration' (or '--dense-scores').")
    if shard is not None and parts:
        raise click.UsageError("--shard scores on a part, --part adds parts up; give one of them.")
    if first_scores is not None and (shard is not None or parts):
        raise click.UsageError("--first-scores scores nothing; leave --shard and --part out.")
    from fusegpt.pruning.score_jobs import add_scores, score_model, score_part

    if parts:
        add_scores(model, chosen, calibration, parts, output)
        return
    how: dict[str, Any] = {"count": count, "device": device, "weights": weights}
    if shard is None:
        score_model(model, chosen, calibration, output, first_scores=first_scores, **how)
    else:
        score_part(model, chosen, calibration, shard, output, **how)


def _recipe(
    name: str | None,
    whole: dict[str, Any] | None,
    *,
    metric: str | None,
    settings: dict[str, Any],
    dtype: str | None,
) -> Recipe:
    """The recipe that is named or written out, or one made of a metric and its settings."""
    from fusegpt.pruning.recipe import read_recipe, resolve

    if (name or whole) and (metric is not None or settings or dtype is not None):
        raise click.UsageError("--recipe says the metric, its settings and the dtype already.")
    if name is not None:
        return read_recipe(name)
    if whole is not None:
        return recipe_written_out({"name": "by_hand", **whole})
    if metric is None:
        raise click.UsageError("Missing option '--metric' (or '--recipe').")
    sections = {"importance": {"metric": metric, **settings}, "recovery": {"method": "none"}}
    return resolve("by_hand", sections | ({} if dtype is None else {"dtype": dtype}))
