"""Settings: types, schemas read from signatures, and the one place that words a bad setting."""

from __future__ import annotations

import ast
import functools
import importlib.util
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pydantic
from annotated_types import Ge, Gt, Lt
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from fusegpt.errors import ConfigError
from fusegpt.registry import Entry, suggestion

__all__ = [
    "Dtype",
    "Fraction",
    "LearningRate",
    "NonNegativeFloat",
    "NonNegativeInt",
    "Number",
    "PositiveFloat",
    "PositiveInt",
    "Strict",
    "bind",
    "builtin_config_dir",
    "defaults",
    "explain",
    "runtime_parameters",
    "settings_schema",
]

RUNTIME = frozenset(
    {"seed", "progress", "checkpoint", "device", "report", "run", "original", "details"}
)
"""Keyword-only parameters that belong to the run and are no settings, but a seed with a default."""


def _number(value: Any) -> Any:
    """YAML reads ``1e-3`` (no dot) as text; mean what the author meant."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


Number = Annotated[float, BeforeValidator(_number), pydantic.AllowInfNan(False)]
PositiveInt = Annotated[int, Gt(0)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[Number, Gt(0)]
NonNegativeFloat = Annotated[Number, Ge(0)]
LearningRate = Annotated[Number, Gt(0)]
Fraction = Annotated[Number, Ge(0), Lt(1)]
Dtype = Literal["float32", "bfloat16", "float16"]


class Strict(BaseModel):
    """A table of settings: no unknown key, no silent conversion, no change afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


@functools.cache
def settings_schema(entry: Entry) -> type[BaseModel]:
    """Read the settings of a function from its signature, without importing its module.

    Settings are the keyword-only parameters that have a default and are not in ``RUNTIME``; a seed
    that has a default is one too. Their annotations are looked up in this module, so they use the
    types defined or imported here.

    Raises:
        AssertionError: The function is missing or annotated with a type unknown here.
    """
    arguments = _function(entry).args
    fields: dict[str, Any] = {}
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if default is None or argument.arg in RUNTIME - {"seed"}:
            continue
        assert argument.annotation is not None, f"{entry.target}: {argument.arg} has no annotation"
        fields[argument.arg] = (_evaluate(argument.annotation, entry), _evaluate(default, entry))
    return pydantic.create_model(entry.name, __base__=Strict, **fields)


@functools.cache
def runtime_parameters(entry: Entry) -> frozenset[str]:
    """Which of ``RUNTIME`` a function takes; read like its settings."""
    return RUNTIME & {argument.arg for argument in _function(entry).args.kwonlyargs}


def defaults(entry: Entry) -> dict[str, Any]:
    """Every setting of a function with its default value."""
    return settings_schema(entry)().model_dump()


def bind(entry: Entry, settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check ``settings`` against a function's signature and fill in its defaults.

    Args:
        entry: A line of a table.
        settings: The user's; what is missing gets its default.
        where: What the settings are called in the user's file, e.g. ``recipes.fusegpt.recovery``.

    Raises:
        ConfigError: A key is unknown or a value is not allowed; every fault in one line.
    """
    schema = settings_schema(entry)
    try:
        return schema.model_validate(dict(settings)).model_dump()
    except ValidationError as error:
        raise ConfigError(explain(error, where, schema)) from None


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


def _function(entry: Entry) -> ast.FunctionDef:
    spec = importlib.util.find_spec(entry.module)
    assert spec is not None and spec.origin is not None, f"{entry.target}: no such module"
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == entry.name:
            return node
    raise AssertionError(f"{entry.target}: no such function at the top of its module")


def _evaluate(node: ast.expr, entry: Entry) -> Any:
    expression = compile(ast.Expression(node), entry.module, "eval")
    try:
        return eval(expression, dict(globals()))
    except NameError as error:
        raise AssertionError(f"{entry.target}: {error}; define it in fusegpt.config") from None


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
        rule.format(**fault.get("ctx", {})) if rule else fault["msg"][:1].lower() + fault["msg"][1:]
    )
    return f"{name}: {text}, got {_short(fault['input'])}"


def _is_union_tag(part: Any) -> bool:
    """Pydantic adds the tried alternative (``'list[str]'``, ``'[key]'``) to an error's place."""
    return part == "[key]" or (isinstance(part, str) and part.endswith("]") and "[" in part)


def _known_keys(schema: Any, path: tuple[int | str, ...]) -> list[str]:
    """The keys allowed at a place inside a schema."""
    for part in path:
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
