"""What is wanted in place of a sparsity."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError, WithJsonSchema, model_validator

from fusegpt.config import Number, PositiveInt, Strict, explain
from fusegpt.errors import ConfigError
from fusegpt.yaml_files import read_yaml_text

__all__ = ["Target", "read_target"]

AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
COUNTS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9, "G": 10**9}
SIZES = {
    **{"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12},
    **{"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40},
}


def _amount(value: Any, units: Mapping[str, int], example: str) -> Any:
    """A number with its unit as a whole number."""
    match = AMOUNT.fullmatch(str(value)) if isinstance(value, int | str) else None
    if isinstance(value, bool) or match is None or match[2] not in units:
        known = ", ".join(filter(None, units))
        raise ValueError(f"must be an amount such as {example} ({known}), got {value!r:.80}")
    found = int(Decimal(match[1]) * units[match[2]])
    if not found:
        raise ValueError(f"must be above 0, got {value!r}")
    return found


def _written(amount: int, units: Mapping[str, int]) -> str:
    """An amount in the largest unit in which it is a whole number."""
    fits = {size: unit for unit, size in units.items() if amount % size == 0}
    size = max(fits)
    return f"{amount // size}{fits[size]}"


_WRITTEN = WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string"}]})
Count = Annotated[int, BeforeValidator(lambda value: _amount(value, COUNTS, "100M")), _WRITTEN]
Size = Annotated[int, BeforeValidator(lambda value: _amount(value, SIZES, "200MB")), _WRITTEN]


class Target(Strict):
    """What is wanted of a pruned model, in place of a fraction of its units: one of these."""

    parameters: Count | None = Field(default=None, description="Parameters, at most: 100M.")
    file_size: Size | None = Field(
        default=None, description="Bytes of the stored weights, at most: 200MB or 190MiB."
    )
    memory: Size | None = Field(
        default=None,
        description="Bytes of weights, keys and values, at most: 6GB; context and batch say for how"
        " many tokens.",
    )
    batch: PositiveInt | None = Field(default=None, description="With memory: sequences; 1.")
    context: PositiveInt | None = Field(default=None, description="With memory: tokens of each.")
    speedup: Number | None = Field(
        default=None,
        gt=1,
        description="Times as fast as the dense model in decoding, at least, by the bytes read.",
    )
    blocks: PositiveInt | None = Field(default=None, description="Blocks that stay.")

    @model_validator(mode="after")
    def _is_one(self) -> Target:
        named = [name for name in KINDS if getattr(self, name) is not None]
        if len(named) != 1:
            said = " and ".join(named) or "none"
            raise ValueError(f"must name one of {', '.join(KINDS)}, got {said}")
        if self.memory is not None and self.context is None:
            raise ValueError("memory: must come with context, the tokens of a sequence, got none")
        if self.memory is None and (self.batch or self.context):
            raise ValueError(f"batch and context: must come with memory, got {named[0]}")
        return self

    @property
    def kind(self) -> str:
        """Which of them it is."""
        return next(name for name in KINDS if getattr(self, name) is not None)

    @property
    def text(self) -> str:
        """The target as ``--target`` takes it: ``memory=6GB,batch=1,context=8192``."""
        value = getattr(self, self.kind)
        written = f"{value:g}" if isinstance(value, float) else _written(value, KINDS[self.kind])
        more = f",batch={self.batch or 1},context={self.context}" if self.memory else ""
        return f"{self.kind}={written}{more}"


KINDS: dict[str, Mapping[str, int]] = {
    "parameters": COUNTS,
    "file_size": SIZES,
    "memory": SIZES,
    "speedup": {"": 1},
    "blocks": {"": 1},
}
"""The targets, and the units that each is written in."""


def read_target(text: str, where: str = "--target") -> Target:
    """Read ``parameters=100M`` or ``memory=6GB,batch=1,context=8192``.

    Raises:
        ConfigError: It is no target; one line.
    """
    parts = [part.partition("=") for part in text.split(",")]
    if not all(equals and value.strip() for _, equals, value in parts):
        raise ConfigError(f"{where}: must be like parameters=100M, got {text!r:.80}")
    values = {name.strip(): read_yaml_text(value, where) for name, _, value in parts}
    if len(values) < len(parts):
        raise ConfigError(f"{where}: must say each amount once, got {text!r:.80}")
    try:
        return Target.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error, where, Target)) from None
