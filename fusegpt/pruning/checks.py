"""Settings of a recipe that are right alone and wrong together.

What one method refuses stands on its settings; here is what follows from what methods say of
themselves.
"""

from __future__ import annotations

from collections.abc import Callable

from fusegpt.config import check_gradient_dtype
from fusegpt.errors import ConfigError
from fusegpt.importance import METRICS
from fusegpt.pruning.definition import Recipe
from fusegpt.pruning.sections import WindowsSpec
from fusegpt.recovery import RECOVERIES
from fusegpt.recovery.settings import RecoverySettings

__all__ = ["check_together", "check_width"]


def check_together(recipe: Recipe, where: str) -> None:
    """Refuse combinations that cannot work, before anything runs.

    Args:
        recipe: Removes units.
        where: Name of the recipe in messages.

    Raises:
        ConfigError: One is there; the message says which and what would do.
    """
    recipe.recovery.check(recipe, where)
    recipe.importance.check(recipe, where)
    _check_windows(recipe, where)
    _check_masks(recipe, where)
    _check_lengths(recipe, where)
    _check_reference(recipe, where)
    _check_selection(recipe, where)
    _check_protection(recipe, where)
    _check_pattern(recipe, where)
    _check_rerank(recipe, where)
    _check_finish(recipe, where)
    _check_gradients(recipe, where)
    if recipe.granularity != "block":
        _check_sublayers(recipe, where)


def check_width(recipe: Recipe, where: str) -> None:
    """Refuse what a recipe of widths cannot read or compute, before anything runs.

    Args:
        recipe: Slices widths.
        where: Name of the recipe in messages.

    Raises:
        ConfigError: One setting is there; the message says what must hold.
    """
    _check_cut(recipe.calibration, f"{where}.calibration")
    _check_gradients(recipe, where)
    if recipe.calibration.predict == "answers":
        raise ConfigError(
            f"{where}.calibration.predict: 'answers' is for losses of the next token;"
            f" {recipe.width_method} must have 'all'"
        )


def _check_windows(recipe: Recipe, where: str) -> None:
    spec, batch = recipe.finetune, recipe.recovery.batch
    if recipe.needs_windows and spec.rows is None and spec.sequences < batch:
        raise ConfigError(
            f"{where}.finetune.sequences: must fill one batch of {batch}, got {spec.sequences}"
        )


def _check_masks(recipe: Recipe, where: str) -> None:
    """Windows that end in padding, or count in part, need methods that can tell."""
    _check_cut(recipe.calibration, f"{where}.calibration")
    if recipe.calibration.predict == "answers" and not recipe.importance.predicts_next_token:
        raise ConfigError(
            f"{where}.calibration.predict: 'answers' is for losses of the next token;"
            f" {recipe.metric} must have 'all'"
        )
    if recipe.finish is not None:
        _check_cut(recipe.windows("finish"), f"{where}.finish.windows")
    if not recipe.needs_windows:
        return
    spec, recovery = recipe.finetune, recipe.recovery
    _check_cut(spec, f"{where}.finetune")
    if (spec.cut == "documents" or spec.predict == "answers") and not recovery.masks:
        able = _recoveries_that(lambda settings: settings.needs_windows and settings.masks)
        raise ConfigError(
            f"{where}.finetune: {recipe.method} takes padding for text; with cut 'documents' or"
            f" predict 'answers' the recovery must be one of {', '.join(able)}"
        )
    if spec.predict == "answers" and not recovery.predicts_next_token:
        raise ConfigError(
            f"{where}.finetune.predict: 'answers' is for losses of the next token; {recipe.method}"
            " must have 'all'"
        )


def _check_cut(spec: WindowsSpec, where: str) -> None:
    """Refuse rows where each document is a window, and in a mixture."""
    if spec.rows is not None and (spec.cut == "documents" or not isinstance(spec.corpus, str)):
        other = "cut 'documents'" if spec.cut == "documents" else "a mixture of corpora"
        raise ConfigError(f"{where}.rows: must not be given with {other}; say sequences")


def _check_lengths(recipe: Recipe, where: str) -> None:
    """One token has no next one to predict."""
    if recipe.importance.predicts_next_token and recipe.calibration.length < 2:
        raise ConfigError(
            f"{where}.calibration.length: must be at least 2, got {recipe.calibration.length};"
            f" {recipe.metric} is a loss of the next token"
        )
    judges = recipe.rerank is not None and recipe.rerank.by == "loss"
    if (recipe.recovery.predicts_next_token or judges) and recipe.finetune.length < 2:
        raise ConfigError(
            f"{where}.finetune.length: must be at least 2, got {recipe.finetune.length};"
            f" {recipe.method} is judged by the loss of the next token"
        )


def _check_reference(recipe: Recipe, where: str) -> None:
    compares = _metrics_that_take("original")
    if recipe.importance.reference == "original" and recipe.metric not in compares:
        raise ConfigError(
            f"{where}.importance.reference: {recipe.metric} compares with no other model;"
            f" 'original' is for {', '.join(compares)}"
        )


def _check_selection(recipe: Recipe, where: str) -> None:
    if recipe.selection != "contiguous":
        return
    if recipe.granularity != "block":
        raise ConfigError(
            f"{where}.selection: 'contiguous' takes runs of whole blocks; with granularity"
            f" {recipe.granularity!r} it must be 'iterative' or 'one_shot'"
        )
    scoring = _metrics_that_take("run")
    if recipe.metric not in scoring:
        raise ConfigError(
            f"{where}.selection: {recipe.metric} scores no runs of blocks; 'contiguous' is for"
            f" {', '.join(scoring)}"
        )
    able = _recoveries_that(lambda settings: settings.runs or settings.when == "end")
    if recipe.method not in able:
        raise ConfigError(
            f"{where}.selection: {recipe.method} recovers one block at a time; with 'contiguous'"
            f" the recovery must be {' or '.join(able)}"
        )


def _check_protection(recipe: Recipe, where: str) -> None:
    if recipe.recovery.needs_before and not recipe.importance.spares_first:
        raise ConfigError(
            f"{where}.importance.protect_first: must be at least 1, got 0;"
            f" {recipe.method} folds into the block before the removed one"
        )


def _check_pattern(recipe: Recipe, where: str) -> None:
    if recipe.keep_pattern and recipe.granularity != "block":
        raise ConfigError(
            f"{where}.keep_pattern: is for whole blocks, whose kinds follow each other; got"
            f" granularity {recipe.granularity!r}"
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
    able = _recoveries_that(lambda settings: settings.acts and settings.when == "step")
    if recipe.method not in able:
        raise ConfigError(
            f"{where}.rerank: tries the recovery of each step, which {recipe.method} has not; the"
            f" recovery must be one of {', '.join(able)}"
        )
    batch, spec = recipe.recovery.batch, recipe.finetune
    if rerank.sequences < batch:
        raise ConfigError(
            f"{where}.rerank.sequences: must fill one batch of {batch}, got {rerank.sequences}"
        )
    if spec.rows is None and spec.sequences < rerank.sequences + rerank.judged:
        raise ConfigError(
            f"{where}.finetune.sequences: must be at least {rerank.sequences + rerank.judged},"
            f" rerank's sequences and judged, got {spec.sequences}"
        )


def _check_sublayers(recipe: Recipe, where: str) -> None:
    able = _recoveries_that(lambda settings: settings.sublayers)
    if recipe.method not in able:
        raise ConfigError(
            f"{where}.recovery: {recipe.method} replaces whole blocks; with granularity"
            f" {recipe.granularity!r} it must be one of {', '.join(able)}"
        )


def _check_finish(recipe: Recipe, where: str) -> None:
    if recipe.finish is None:
        if recipe.chain is not None:
            raise ConfigError(
                f"{where}.chain: names the recipe that a finish goes on from; give a finish, or"
                " leave it out"
            )
        return
    if recipe.recovers_at_end:
        raise ConfigError(
            f"{where}.finish: {recipe.method} works after the last removal, too; make it the finish"
            " (method: lora) after a recovery of each step, or none"
        )
    recipe.finish.check(recipe, where)
    recipe.finish.check_windows(recipe.windows("finish"), where)


def _check_gradients(recipe: Recipe, where: str) -> None:
    """Refuse a type too narrow for gradients where they go back through a model."""
    parts = {
        recipe.metric: recipe.importance.takes_gradients,
        recipe.method: recipe.recovery.takes_gradients,
        f"finish {recipe.finish_method}": recipe.finish is not None,
        recipe.width_method or "": recipe.width is not None and recipe.width.takes_gradients,
    }
    taking = [name for name, takes in parts.items() if takes]
    kinds: dict[str, str] = {"dtype": recipe.dtype}
    if recipe.recovery.takes_gradients:
        kinds["recovery.trainable_dtype"] = recipe.recovery.memory_dtype
    for key, dtype in kinds.items() if taking else ():
        check_gradient_dtype(dtype, f"{where}.{key}", ", ".join(taking))


def _metrics_that_take(known: str) -> list[str]:
    return [name for name, entry in METRICS.items() if known in entry.schema.takes]


def _recoveries_that(can: Callable[[type[RecoverySettings]], bool]) -> list[str]:
    return [name for name, entry in RECOVERIES.items() if can(entry.schema)]
