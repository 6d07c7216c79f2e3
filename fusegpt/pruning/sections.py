"""The sections that every recipe has, whatever its methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import ValidationError

from fusegpt.config import NonNegativeInt, PositiveInt, Strict, explain
from fusegpt.errors import ConfigError

__all__ = ["Calibration", "Rerank", "WindowsSpec", "rerank_of", "section_of"]


class WindowsSpec(Strict):
    """Which windows of token ids to sample.

    Attributes:
        corpus: A name from the configuration.
        split: Of the corpus.
        sequences: Windows; without effect when ``rows`` is given.
        length: Tokens of one window.
        batch_size: Sequences scored at once. Changes scores by rounding only.
        seed: Of the draw; the recipe's seed when absent.
        rows: Draw so many rows of the corpus, and take all windows that they fill.
    """

    corpus: str = "wikitext2"
    split: str = "train"
    sequences: PositiveInt = 1024
    length: PositiveInt = 2048
    batch_size: PositiveInt = 8
    seed: NonNegativeInt | None = None
    rows: PositiveInt | None = None


class Calibration(WindowsSpec):
    """The windows that blocks are scored on: the first 32 of the tuning windows (D12)."""

    sequences: PositiveInt = 32


class Rerank(Strict):
    """Trying the best candidates shortly, and removing the one that recovers best (D41).

    Attributes:
        candidates: So many units with the lowest scores are tried; 1 tries nothing.
        sequences: Fine-tuning windows of a trial, the first ones.
        judged: Fine-tuning windows that a trial's result is judged on, those behind.
        epochs: Of a trial, where the recovery has epochs.
        group_size: Of a trial, where the recovery has a group.
        by: ``cosine``: how far the last hidden states change direction from those before the
            removal. ``loss``: mean loss of the next token.
    """

    candidates: PositiveInt = 8
    sequences: PositiveInt = 32
    judged: PositiveInt = 8
    epochs: PositiveInt = 1
    group_size: PositiveInt = 3
    by: Literal["cosine", "loss"] = "cosine"


def section_of(mapping: Mapping[str, Any] | None, key: str, where: str) -> Mapping[str, Any]:
    """One table of a recipe's settings; ConfigError if it is something else."""
    value = (mapping or {}).get(key) or {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}.{key}: must be a table of settings, got {value!r}")
    return value


def rerank_of(layers: Sequence[Mapping[str, Any] | None], where: str) -> Rerank | None:
    """The section, if the recipe or its own settings in an experiment have it.

    Args:
        layers: Settings of the recipe, of the experiment, and of the experiment for this recipe;
            later ones are laid over.
        where: Names the recipe in messages.

    Raises:
        ConfigError: A setting is unknown or out of range.
    """
    tables = [section_of(layer, "rerank", where) for layer in layers]
    try:
        found = Rerank.model_validate({k: v for table in tables for k, v in table.items()})
    except ValidationError as error:
        raise ConfigError(explain(error, f"{where}.rerank", Rerank)) from None
    named = [layer["rerank"] for layer in (layers[0], layers[2]) if layer and "rerank" in layer]
    return found if named and named[-1] is not None else None
