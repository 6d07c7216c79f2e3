"""Settings of a recipe that are right alone and wrong together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusegpt.errors import ConfigError
from fusegpt.importance import METRICS
from fusegpt.recovery import RECOVERIES

if TYPE_CHECKING:
    from fusegpt.pruning.recipe import Recipe

__all__ = ["check_together"]


def check_together(recipe: Recipe, where: str) -> None:
    """Refuse combinations that cannot work, before anything runs.

    Raises:
        ConfigError: One is there; the message says which and what would do.
    """
    _check_data(recipe, where)
    _check_lengths(recipe, where)
    _check_importance(recipe, where)
    _check_selection(recipe, where)
    _check_recovery(recipe, where)
    _check_rerank(recipe, where)
    if recipe.granularity != "block":
        _check_sublayers(recipe, where)


def _check_sublayers(recipe: Recipe, where: str) -> None:
    if recipe.selection == "contiguous":
        raise ConfigError(
            f"{where}.selection: 'contiguous' takes runs of whole blocks; with granularity"
            f" {recipe.granularity!r} it must be 'iterative' or 'one_shot'"
        )
    able = [name for name, entry in RECOVERIES.items() if entry.sublayers]
    if recipe.method not in able:
        raise ConfigError(
            f"{where}.recovery: {recipe.method} replaces whole blocks; with granularity"
            f" {recipe.granularity!r} it must be one of {', '.join(able)}"
        )
    if RECOVERIES[recipe.method].needs_before and recipe.recovery.get("teacher") == "original":
        raise ConfigError(
            f"{where}.recovery.teacher: {recipe.method} fits one sublayer at a time to the current"
            " model; 'original' is for whole blocks"
        )


def _check_data(recipe: Recipe, where: str) -> None:
    recovery = recipe.recovery
    if recovery.get("loss") == "kl_batch" and recovery["batch_size"] < 2:
        raise ConfigError(
            f"{where}.recovery.batch_size: must be at least 2, got {recovery['batch_size']};"
            " Eq. 7 normalises over the batch"
        )
    spec, batch = recipe.finetune, _batch_size(recipe)
    if recipe.needs_windows and not spec.rows and spec.sequences < batch:
        raise ConfigError(
            f"{where}.finetune.sequences: must fill one batch of {batch}, got {spec.sequences}"
        )


def _check_lengths(recipe: Recipe, where: str) -> None:
    """One token has no next one to predict."""
    if recipe.importance.predicts_next_token and recipe.calibration.length < 2:
        raise ConfigError(
            f"{where}.calibration.length: must be at least 2, got {recipe.calibration.length};"
            f" {recipe.metric} is a loss of the next token"
        )
    recovery = recipe.recovery
    judges = recipe.rerank is not None and recipe.rerank.by == "loss"
    tunes = recipe.recovers_at_end or "holdout" in recovery or recovery.get("loss") == "next_token"
    if (tunes or judges) and recipe.finetune.length < 2:
        raise ConfigError(
            f"{where}.finetune.length: must be at least 2, got {recipe.finetune.length};"
            f" {recipe.method} is judged by the loss of the next token"
        )


def _check_importance(recipe: Recipe, where: str) -> None:
    compares = _metrics_that_take("original")
    if recipe.importance.reference == "original" and recipe.metric not in compares:
        raise ConfigError(
            f"{where}.importance.reference: {recipe.metric} compares with no other model;"
            f" 'original' is for {', '.join(compares)}"
        )
    recipe.importance.check(recipe, where)


def _check_selection(recipe: Recipe, where: str) -> None:
    if recipe.selection != "contiguous":
        return
    scoring = _metrics_that_take("run")
    if recipe.metric not in scoring:
        raise ConfigError(
            f"{where}.selection: {recipe.metric} scores no runs of blocks; 'contiguous' is for"
            f" {', '.join(scoring)}"
        )
    able = [name for name, entry in RECOVERIES.items() if entry.runs or entry.when == "end"]
    if recipe.method not in able:
        raise ConfigError(
            f"{where}.selection: {recipe.method} recovers one block at a time; with 'contiguous'"
            f" the recovery must be {' or '.join(able)}"
        )


def _check_recovery(recipe: Recipe, where: str) -> None:
    protected, recovery = recipe.importance.protect_first, recipe.recovery
    needs_before = RECOVERIES[recipe.method].needs_before or recovery.get("scale") == "channel"
    if needs_before and not protected:
        raise ConfigError(
            f"{where}.importance.protect_first: must be at least 1, got {protected};"
            f" {recipe.method} folds into the block before the removed one"
        )
    idle = recovery.get("train_norms") and not recovery["lora_rank"]
    if idle and recovery.get("donor") != "self":
        raise ConfigError(
            f"{where}.recovery.train_norms: needs a lora_rank above 0; norms get no coefficients,"
            " since nothing is lent to them"
        )
    if recovery.get("loss") == "next_token" and recovery["teacher"] == "original":
        raise ConfigError(
            f"{where}.recovery.teacher: must be 'current' with loss 'next_token', which knows no"
            " teacher"
        )
    spec = recipe.finetune
    if "holdout" in recovery and not spec.rows and spec.sequences < 2:
        raise ConfigError(
            f"{where}.finetune.sequences: must be at least 2, got {spec.sequences};"
            f" {recipe.method} compares on windows that it did not fit"
        )


def _check_rerank(recipe: Recipe, where: str) -> None:
    rerank = recipe.rerank
    if rerank is None:
        return
    if recipe.selection == "contiguous":
        raise ConfigError(
            f"{where}.rerank: tries one unit at a time; with it the selection must be 'iterative'"
            " or 'one_shot', got 'contiguous'"
        )
    if not recipe.needs_windows or recipe.recovers_at_end:
        able = [
            name
            for name, entry in RECOVERIES.items()
            if entry.needs_windows and entry.when == "step"
        ]
        raise ConfigError(
            f"{where}.rerank: tries the recovery of each step, which {recipe.method} has not; the"
            f" recovery must be one of {', '.join(able)}"
        )
    batch, spec = _batch_size(recipe), recipe.finetune
    if rerank.sequences < batch:
        raise ConfigError(
            f"{where}.rerank.sequences: must fill one batch of {batch}, got {rerank.sequences}"
        )
    if not spec.rows and spec.sequences < rerank.sequences + rerank.judged:
        raise ConfigError(
            f"{where}.finetune.sequences: must be at least {rerank.sequences + rerank.judged},"
            f" rerank's sequences and judged, got {spec.sequences}"
        )


def _batch_size(recipe: Recipe) -> int:
    """Sequences that the recovery needs at once; a closed form has no batches."""
    closed = recipe.recovery.get("fit") == "closed_form"
    return 1 if closed else recipe.recovery.get("batch_size", 1)


def _metrics_that_take(known: str) -> list[str]:
    return [name for name, entry in METRICS.items() if known in entry.schema.takes]
