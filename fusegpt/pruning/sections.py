"""The sections that every recipe has, whatever its methods."""

from __future__ import annotations

from typing import Literal

from fusegpt.config import NonNegativeInt, PositiveInt, Strict

__all__ = ["Calibration", "Common", "WindowsSpec"]


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


class Common(Strict):
    """What every metric's ``importance`` section may say.

    Attributes:
        protect_first: Blocks at the start that stay.
        protect_last: Blocks at the end that stay.
        reference: Whose states or logits a pruned model is compared with, where a metric compares.
    """

    protect_first: NonNegativeInt = 0
    protect_last: NonNegativeInt = 0
    reference: Literal["current", "original"] = "current"
