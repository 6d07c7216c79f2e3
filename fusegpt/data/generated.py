"""Settings of text that a model writes itself; no torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from annotated_types import Gt, Le
from pydantic import Field, ValidationError, model_validator

from fusegpt.config import (
    Dtype,
    NonNegativeInt,
    Number,
    PositiveFloat,
    PositiveInt,
    Strict,
    added_later,
    explain,
)
from fusegpt.errors import ConfigError

__all__ = ["Generated", "read_generated"]

REWRITE = (
    "Below is an instruction that describes a task, along with a reference answer. Using the"
    " reference answer as a guide, write your own response.\n\n### Instruction:\n{question}\n\n"
    "### Reference answer:\n{answer}\n\n### Response:"
)
"""How self-distillation asks for an answer in the model's own words (arXiv 2402.13669)."""


class Generated(Strict):
    """Text that the dense model writes, token by token, for windows of its own."""

    start: Literal["random", "prefixes", "prompts"] = Field(
        default="random",
        description="What it goes on from: one random token, the first tokens of windows of a"
        " corpus, or the questions of conversations, which it answers by its chat template.",
    )
    corpus: str | None = Field(
        default=None, description="Corpus of the prefixes or of the conversations."
    )
    split: str = Field(default="train", description="Split of that corpus.")
    prefix: PositiveInt = Field(default=16, description="Tokens of a prefix.")
    sequences: PositiveInt = Field(default=1024, description="Number of texts.")
    length: PositiveInt = Field(
        default=2048,
        description="Tokens of a text, those it starts from included; an answer may end before.",
    )
    temperature: PositiveFloat = Field(default=1.0, description="Temperature of the draws.")
    top_p: Annotated[Number, Gt(0), Le(1)] = Field(
        default=1.0, description="Draw from the likeliest tokens that have this probability."
    )
    seed: NonNegativeInt = Field(default=0, description="Seed of all draws.")
    batch_size: PositiveInt = Field(
        default=8, description="Texts written at once; changes them by rounding only."
    )
    dtype: Dtype = Field(default="bfloat16", description="Type of the weights while writing.")

    rewrite: Annotated[
        bool,
        added_later(
            False,
            "With prompts: show the model the answer that is there, and learn what it makes of it.",
        ),
    ] = False
    template: Annotated[
        str,
        added_later(
            REWRITE,
            "What stands in place of the question when an answer is rewritten; {question} and"
            " {answer} are filled in.",
        ),
    ] = REWRITE
    accept: Annotated[
        Literal["all", "ended", "number"],
        added_later(
            "ended",
            "Which rewritten answers are taken, the original ones standing in for the others: all;"
            " those that are not empty and come to an end within the length; or of these the ones"
            " whose last number is the original's, if that has one.",
        ),
    ] = "ended"

    engine: Annotated[
        Literal["transformers", "vllm"],
        added_later(
            "transformers",
            "What generates: transformers, or vLLM where it is installed, faster on a GPU.",
        ),
    ] = "transformers"

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        needs = self.start != "random"
        if needs != (self.corpus is not None):
            what = "a corpus to start from" if needs else "no corpus"
            raise ValueError(f"start {self.start!r} must have {what}, got {self.corpus!r}")
        usual = type(self).model_fields
        if self.start != "prefixes" and self.prefix != usual["prefix"].default:
            raise ValueError(f"prefix must come with start 'prefixes', got {self.start!r}")
        if not needs and self.split != usual["split"].default:
            raise ValueError("split must come with a corpus, which start 'random' has not")
        least = self.prefix + 1 if self.start == "prefixes" else 3
        if self.length < least:
            raise ValueError(f"length must be at least {least}, got {self.length}")
        if self.rewrite and self.start != "prompts":
            raise ValueError(
                f"rewrite must be false with start {self.start!r}; prompts have answers"
            )
        unasked = [name for name in ("template", "accept") if name in self.model_dump()]
        if unasked and not self.rewrite:
            raise ValueError(f"{unasked[0]} must come with rewrite: true, which is not asked for")
        missing = [part for part in ("{question}", "{answer}") if part not in self.template]
        if missing:
            raise ValueError(f"template must contain {missing[0]}, got {self.template!r:.60}")
        return self


def read_generated(settings: Mapping[str, Any], where: str) -> Generated:
    """Check settings and fill in the defaults.

    Raises:
        ConfigError: One is unknown or out of range; the message starts with ``where``.
    """
    try:
        return Generated.model_validate(dict(settings))
    except ValidationError as error:
        raise ConfigError(explain(error, where, Generated)) from None
