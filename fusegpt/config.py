"""Settings: their types, and the one place that words a bad setting."""

from __future__ import annotations

import types
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pydantic
from annotated_types import Ge, Gt, Lt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from fusegpt.errors import ConfigError
from fusegpt.registry import suggestion

__all__ = [
    "Dtype",
    "Fraction",
    "LearningRate",
    "NonNegativeFloat",
    "NonNegativeInt",
    "Number",
    "PositiveFloat",
    "PositiveInt",
    "Reuse",
    "StoredDtype",
    "Strict",
    "Weights",
    "added_later",
    "builtin_config_dir",
    "check_gradient_dtype",
    "distinct",
    "explain",
]


def _number(value: Any) -> Any:
    """YAML reads ``1e-3`` (no dot) as text; mean what the author meant."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


_FINITE, _AS_MEANT = pydantic.AllowInfNan(False), BeforeValidator(_number)
Number = Annotated[float, _FINITE, _AS_MEANT]
PositiveInt = Annotated[int, Gt(0)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0), _FINITE, _AS_MEANT]
NonNegativeFloat = Annotated[float, Ge(0), _FINITE, _AS_MEANT]
LearningRate = PositiveFloat
Fraction = Annotated[float, Ge(0), Lt(1), _FINITE, _AS_MEANT]
Dtype = Literal["float32", "bfloat16", "float16"]
StoredDtype = Literal["source", "float32", "bfloat16", "float16"]
Weights = Literal["auto", "resident", "streamed"]
"""Where weights are: all in memory, those of a block only while it runs, or what fits."""
Reuse = Literal["auto", "never"]
"""Whether a scoring goes on from hidden states of the one before, where they fit in memory."""


class Strict(BaseModel):
    """A table of settings: no unknown key, no silent conversion, no change afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def added_later(default: Any, description: str) -> Any:
    """Describe a setting that came after the first release: at its default it is not written.

    So recipes keep the ids and the text that they had before it came:
    ``steam: Annotated[Fraction, added_later(0.0, "How much.")] = 0.0``.
    """
    return Field(
        default=default, description=description, exclude_if=lambda value: bool(value == default)
    )


def check_gradient_dtype(dtype: str, where: str, taking: str) -> None:
    """Refuse float16 where gradients go back through a model: it rounds many of them to zero.

    Args:
        dtype: Name of the type.
        where: Begins the message.
        taking: What takes gradients.

    Raises:
        ConfigError: It is float16.
    """
    if dtype == "float16":
        raise ConfigError(
            f"{where}: must be 'bfloat16' or 'float32' with {taking}, which takes gradients, many"
            f" of which float16 rounds to zero; got {dtype!r}"
        )


def distinct(values: list[Any]) -> list[Any]:
    """Return a list of a configuration as it is.

    Raises:
        ValueError: An entry stands there twice.
    """
    for value in values:
        if values.count(value) > 1:
            raise ValueError(
                f"must list each entry once, got {value!r} {values.count(value)} times"
            )
    return values


def explain(error: ValidationError, where: str, schema: type[BaseModel]) -> str:
    """Word a pydantic error as ``where.key: must be ..., got ...``, faults joined by ``; ``."""
    return "; ".join(_explain_one(fault, where, schema) for fault in error.errors())


def builtin_config_dir() -> Path:
    """The folder with ``config.yaml`` and ``recipes/``; ``Snakefile`` and ``rules/`` lie beside it.

    In a clone it is the clone's own, else the copy that the wheel carries.
    """
    package = Path(__file__).resolve().parent
    clone = package.parent / "config"
    return clone if (clone / "recipes").is_dir() else package / "builtin" / "config"


_RULES = {
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "list_type": "must be a list",
    "dict_type": "must be a table of keys and values",
    "model_type": "must be a table of keys and values",
    "too_short": "must have at least {min_length} entry",
    "string_pattern_mismatch": "must match {pattern}",
}


def _explain_one(fault: Mapping[str, Any], where: str, schema: type[BaseModel]) -> str:
    path = [str(part) for part in fault["loc"] if not _is_union_tag(part)]
    name = ".".join([where, *path] if where else path)
    kind = fault["type"]
    if kind == "missing":
        return f"{name}: is required"
    if kind == "extra_forbidden":
        parent, key = ".".join([where, *path[:-1]] if where else path[:-1]), path[-1]
        known = _known_keys(schema, fault["loc"][:-1])
        return f"{parent + ': ' if parent else ''}unknown setting {key!r}{suggestion(key, known)}"
    if kind == "value_error":
        return f"{name}: {fault['ctx']['error']}"
    rule = _RULES.get(kind)
    text = (
        rule.format(**{key: _bound(value) for key, value in fault.get("ctx", {}).items()})
        if rule
        else fault["msg"][:1].lower() + fault["msg"][1:]
    )
    return f"{name}: {text}, got {_short(fault['input'])}"


def _bound(value: Any) -> Any:
    """A bound as one writes it: 1 and not 1.0."""
    return f"{value:g}" if isinstance(value, float) else value


def _is_union_tag(part: Any) -> bool:
    """Pydantic adds the tried alternative (``'list[str]'``, ``'[key]'``) to an error's place."""
    return part == "[key]" or (isinstance(part, str) and part.endswith("]") and "[" in part)


def _known_keys(schema: Any, path: tuple[int | str, ...]) -> list[str]:
    """The keys allowed at a place inside a schema."""
    for part in (part for part in path if not _is_union_tag(part)):
        while get_origin(schema) in (Annotated, Union, types.UnionType):
            schema = get_args(schema)[0]
        if isinstance(schema, type) and issubclass(schema, BaseModel):
            schema = schema.model_fields[str(part)].annotation
        elif get_args(schema):
            schema = get_args(schema)[-1]
    while get_origin(schema) in (Annotated, Union, types.UnionType):
        schema = get_args(schema)[0]
    return sorted(getattr(schema, "model_fields", {}))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
