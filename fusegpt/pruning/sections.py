"""The keys of a recipe file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from fusegpt.config import (
    Dtype,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StoredDtype,
    Strict,
    added_later,
)
from fusegpt.units import Granularity

__all__ = [
    "METHODS",
    "Calibration",
    "Rerank",
    "Sections",
    "Share",
    "WidthCalibration",
    "WidthSections",
    "WindowsSpec",
]

NAME = r"^[a-z0-9][a-z0-9_]*$"

METHODS = {"importance": "metric", "recovery": "method", "finish": "method", "width": "method"}
"""Sections that name a method, and the key that does."""


class Share(Strict):
    """One corpus of a mixture."""

    name: str = Field(description="Name of a corpus of the configuration.")
    share: PositiveFloat = Field(description="Share of the windows that are of it.")
    split: str | None = Field(
        default=None, description="Split of the corpus; that of the windows when absent."
    )


def _sum_to_one(shares: list[Share]) -> list[Share]:
    total = sum(part.share for part in shares)
    if abs(total - 1) > 1e-6:
        raise ValueError(f"shares must sum to 1, got {total:g}")
    return shares


Mixture = Annotated[list[Share], AfterValidator(_sum_to_one)]


class WindowsSpec(Strict):
    """Which windows of token ids to sample."""

    corpus: Annotated[
        Annotated[str, Tag("[name]")] | Annotated[Mixture, Tag("[mixture]")],
        Discriminator(lambda value: "[mixture]" if isinstance(value, list) else "[name]"),
    ] = Field(
        default="wikitext2",
        description="Name of a corpus of the configuration; or several with their shares, which"
        " sum to 1, each window of one of them.",
    )
    split: str = Field(default="train", description="Split of the corpus.")
    sequences: PositiveInt = Field(
        default=1024, description="Number of windows; without effect when rows is given."
    )
    length: PositiveInt = Field(default=2048, description="Tokens of one window.")
    batch_size: PositiveInt = Field(
        default=8, description="Sequences scored at once; changes scores by rounding only."
    )
    seed: NonNegativeInt | None = Field(
        default=None, description="Seed of the draw; the recipe's seed when absent."
    )
    rows: PositiveInt | None = Field(
        default=None,
        description="Draw so many rows of the corpus, and take all windows that they fill.",
    )
    cut: Annotated[
        Literal["joined", "documents"],
        added_later(
            "joined",
            "From all documents behind each other, or one document a window, cut off at its length"
            " and padded where it is shorter; padding has no share in scores and losses.",
        ),
    ] = "joined"
    bos: Annotated[
        Literal["stream", "window", "none"] | None,
        added_later(
            None,
            "Where BOS stands: once at the start of the corpus, if the tokenizer adds it; at the"
            " start of every window; or nowhere. Absent: window for Gemma, which needs it, else"
            " stream.",
        ),
    ] = None
    predict: Annotated[
        Literal["all", "answers"],
        added_later(
            "all",
            "Whose prediction counts in losses of the next token: every token's, or those of the"
            " assistant's answers in conversations.",
        ),
    ] = "all"

    @property
    def parts(self) -> list[tuple[str, str]]:
        """Name and split of each corpus."""
        if isinstance(self.corpus, str):
            return [(self.corpus, self.split)]
        return [(part.name, part.split or self.split) for part in self.corpus]


class Calibration(WindowsSpec):
    """The windows that units are scored on: the first 32 of the tuning windows (D12)."""

    sequences: PositiveInt = Field(
        default=32, description="Number of windows; without effect when rows is given."
    )


class WidthCalibration(WindowsSpec):
    """The windows whose signals are analysed; published: 128 of 2048 tokens."""

    sequences: PositiveInt = Field(
        default=128, description="Number of windows; without effect when rows is given."
    )


class Rerank(Strict):
    """Trying the best candidates shortly, and removing the one that recovers best (D41)."""

    candidates: PositiveInt = Field(
        default=8, description="Number of units with the lowest scores that are tried; 1: none."
    )
    sequences: PositiveInt = Field(
        default=32, description="Fine-tuning windows of a trial, the first ones."
    )
    judged: PositiveInt = Field(
        default=8, description="Fine-tuning windows that a trial is judged on, those behind."
    )
    epochs: PositiveInt = Field(
        default=1, description="Epochs of a trial, where the recovery has epochs."
    )
    group_size: PositiveInt = Field(
        default=3, description="Neighbours tuned in a trial, where the recovery has a group."
    )
    by: Literal["cosine", "loss"] = Field(
        default="cosine",
        description="Judge by how far the last hidden states change direction from those before"
        " the removal, or by the mean loss of the next token.",
    )


class Sections(Strict):
    """The keys of a recipe that removes units."""

    name: str
    importance: dict[str, Any] = Field(description="The metric, and its settings.")
    selection: Literal["iterative", "one_shot", "contiguous"] = Field(
        default="iterative",
        description="Score anew before each removal, or once; or take one run of neighbours of the"
        " dense model, as long as needed.",
    )
    keep_pattern: bool = Field(
        default=False,
        description="Remove only whole periods of the pattern in which kinds of blocks (sliding"
        " and full attention, without rotary positions) follow each other by number, so that"
        " programs which compute a block's kind from its number run the same model.",
    )
    rerank: Rerank | None = Field(
        default=None, description="Try the best candidates before one is removed; absent: do not."
    )
    granularity: Granularity = Field(
        default="block",
        description="Whole blocks, their attentions, their mlps, or both of these in one contest.",
    )
    recovery: dict[str, Any] = Field(description="The method, and its settings.")
    calibration: Calibration = Field(
        default=Calibration(), description="Windows that units are scored on."
    )
    finetune: WindowsSpec = Field(
        default=WindowsSpec(), description="Windows that the model recovers on."
    )
    chain: str | None = Field(
        default=None,
        pattern=NAME,
        description="Name of a recipe whose steps the finish goes on from, so that several"
        " finishes share them; its settings hold unless others stand here.",
    )
    finish: dict[str, Any] | None = Field(
        default=None,
        description="What trains the whole model after the last removal: the method, its settings,"
        " and windows, which are those of finetune unless others stand here; absent: nothing.",
    )
    dtype: Dtype = Field(
        default="bfloat16", description="Type of frozen weights and of computation."
    )
    checkpoint_dtype: StoredDtype = Field(
        default="source",
        description="Type that weights are stored in, by steps and checkpoints; 'source': each"
        " tensor's own in the dense model, whose untouched tensors keep every bit.",
    )
    seed: NonNegativeInt = Field(default=0, description="Seed of everything that is drawn.")


class WidthSections(Strict):
    """The keys of a recipe that slices widths."""

    name: str
    width: dict[str, Any] = Field(description="The method, and its settings.")
    calibration: WidthCalibration = Field(
        default=WidthCalibration(), description="Windows whose signals are analysed."
    )
    dtype: Dtype = Field(default="bfloat16", description="Type of weights and of computation.")
    checkpoint_dtype: StoredDtype = Field(
        default="source",
        description="Type that weights are stored in, by steps and checkpoints; 'source': each"
        " tensor's own in the dense model, whose untouched tensors keep every bit.",
    )
    seed: NonNegativeInt = Field(default=0, description="Seed of everything that is drawn.")
