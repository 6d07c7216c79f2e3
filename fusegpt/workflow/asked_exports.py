"""What an experiment exports its models to, as its configuration writes it."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Discriminator, Field, Tag

from fusegpt.config import PositiveInt, Strict, distinct
from fusegpt.errors import ConfigError
from fusegpt.exports.targets import parse_target
from fusegpt.pruning.sections import WindowsSpec

__all__ = ["Exports", "Gptq", "RoundedOn"]


def _target(value: str) -> str:
    try:
        return parse_target(value).text
    except ConfigError as error:
        raise ValueError(str(error)) from None


class RoundedOn(WindowsSpec):
    """The windows that weights are rounded by; published: 128 of 2048 tokens."""

    sequences: PositiveInt = Field(
        default=128, description="Number of windows; without effect when rows is given."
    )


class Gptq(Strict):
    """Four bits by GPTQ, with the windows that it reads."""

    gptq4: RoundedOn = Field(description="The windows that weights are rounded by.")


def _each_once(values: list[str | Gptq]) -> list[str | Gptq]:
    distinct([value if isinstance(value, str) else "gptq4" for value in values])
    return values


ExportAsked = Annotated[
    Annotated[Gptq, Tag("[settings]")]
    | Annotated[Annotated[str, AfterValidator(_target)], Tag("[name]")],
    Discriminator(lambda value: "[name]" if isinstance(value, str) else "[settings]"),
]
Exports = Annotated[list[ExportAsked], AfterValidator(_each_once)]
