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
    explain,
)
from fusegpt.errors import ConfigError

__all__ = ["Generated", "read_generated"]


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

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        needs = self.start != "random"
        if needs != (self.corpus is not None):
            what = "a corpus to start from" if needs else "no corpus"
            raise ValueError(f"start {self.start!r} must have {what}, got {self.corpus!r}")
        least = self.prefix + 1 if self.start == "prefixes" else 3
        if self.length < least:
            raise ValueError(f"length must be at least {least}, got {self.length}")
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
