"""Options and parameter types that several verbs share."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import click

from fusegpt.config import Dtype, Weights
from fusegpt.errors import ConfigError

if TYPE_CHECKING:
    from decimal import Decimal

    from fusegpt.pruning.recipe import Recipe

__all__ = [
    "JsonObject",
    "Place",
    "compile_option",
    "device_option",
    "devices_option",
    "directory_option",
    "dtype_of",
    "dtype_option",
    "finite",
    "input_file",
    "input_path",
    "output_path",
    "recipe_written_out",
    "results_option",
    "settings_options",
    "sparsity_option",
    "weights_option",
]


class Place(click.Path):
    """A path of the command line; one that the system cannot even look up is a usage error."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse nothing at all and NUL, which click hands to the system as they are."""
        if not str(value) or "\0" in str(value):
            self.fail(f"must be a path, got {str(value)!r}", param, ctx)
        return super().convert(value, param, ctx)


input_path = Place(exists=True, path_type=Path)
input_file = Place(exists=True, dir_okay=False, path_type=Path)
output_path = Place(path_type=Path)


class JsonObject(click.ParamType):  # type: ignore[type-arg]
    """A JSON object on the command line, e.g. ``--settings '{"rank": 8}'``."""

    name = "json"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, Any]:
        """Parse the text; anything but an object is a usage error."""
        from fusegpt.yaml_files import read_json_text

        if isinstance(value, dict):
            return value
        try:
            parsed = read_json_text(value)
        except (ValueError, RecursionError) as error:
            said = str(error) if isinstance(error, ValueError) else "nested too deeply"
            self.fail(f"must be a JSON object, got {value[:200]!r}: {said}", param, ctx)
        if not isinstance(parsed, dict):
            self.fail(f"must be a JSON object, got {value!r}", param, ctx)
        return parsed


class Entries(JsonObject):
    """The configuration's ``corpora`` or ``tasks`` as JSON, checked as the workflow checks them."""

    def __init__(self, kind: Literal["corpora", "tasks"]) -> None:
        self.kind: Literal["corpora", "tasks"] = kind

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, Any]:
        """Parse the text, and check each entry."""
        return checked_entries(self.kind, super().convert(value, param, ctx), f"--{self.kind}")


def checked_entries(kind: Literal["corpora", "tasks"], entries: Any, where: str) -> dict[str, Any]:
    """Return the configuration's ``corpora`` or ``tasks`` as they are, if that is what they are.

    Args:
        kind: Which of them.
        entries: A table of entries by name; None: there are none.
        where: What the message starts with.

    Raises:
        ConfigError: A key is unknown, or a value is of the wrong kind.
    """
    from pydantic import ValidationError

    from fusegpt.config import explain
    from fusegpt.workflow.schema import Corpus, Task

    if not isinstance(entries, dict | None):
        raise ConfigError(f"{where}: must be a table of keys and values, got {entries!r:.80}")
    schema: type[Corpus | Task] = Corpus if kind == "corpora" else Task
    for name, entry in (entries or {}).items():
        try:
            if entry is not None:
                schema.model_validate(entry)
        except ValidationError as error:
            raise ConfigError(explain(error, f"{where}.{name}", schema)) from None
    return entries or {}


class Assignment(click.ParamType):  # type: ignore[type-arg]
    """One setting on the command line, e.g. ``--set recovery.rank=8``; the value is YAML."""

    name = "key=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[tuple[str, ...], Any]:
        """Split at the first ``=`` and read the value; the dots of the key separate tables."""
        from fusegpt.yaml_files import check_plain, read_yaml_text

        if isinstance(value, tuple):
            return value
        key, equals, text = value.partition("=")
        path = tuple(key.split("."))
        if not equals or not all(path):
            self.fail(f"must be KEY=VALUE such as recovery.rank=8, got {value!r}", param, ctx)
        try:
            value = read_yaml_text(text, key)
            check_plain(value, key)
        except ConfigError:
            self.fail(f"{key}: must be a value in YAML, got {text!r}", param, ctx)
        return path, value


def settings_options(what: str, example: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--set KEY=VALUE`` and ``--settings JSON``, which a verb gets as one table ``settings``.

    Args:
        what: What the settings are, for the help: "Settings of the metric".
        example: One of them with a value, for the help: ``protect_first=2``.
    """

    def decorate(verb: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(verb)
        def callback(*, settings: dict[str, Any], assignments: Any, **given: Any) -> Any:
            return verb(settings=_assigned(settings, assignments), **given)

        one = click.option(
            "--set",
            "assignments",
            type=Assignment(),
            multiple=True,
            metavar="KEY=VALUE",
            help=f"{what}, one by one: {example}.",
        )
        table = click.option(
            "--settings", type=JsonObject(), default="{}", help="The same as one JSON object."
        )
        return one(table(callback))

    return decorate


def _assigned(
    settings: dict[str, Any], assignments: Iterable[tuple[tuple[str, ...], Any]]
) -> dict[str, Any]:
    """The table with each assignment laid over it."""
    result = copy.deepcopy(settings)
    for path, value in assignments:
        table = result
        for depth, name in enumerate(path[:-1], start=1):
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                where = ".".join(path[:depth])
                raise click.UsageError(f"--set {'.'.join(path)}: {where} is no table of settings.")
        table[path[-1]] = value
    return result


def recipe_written_out(
    settings: Mapping[str, Any], over: Mapping[str, Any] | None = None
) -> Recipe:
    """The recipe of ``--recipe-settings``, with ``over`` laid over it.

    Raises:
        ConfigError: It has no name, a key is unknown, or a value is out of range.
    """
    from fusegpt.pruning.recipe import resolve

    if "name" not in settings:
        raise ConfigError("--recipe-settings: name: is required")
    rest = {key: value for key, value in settings.items() if key != "name"}
    return resolve(settings["name"], rest, own=over)


def finite(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """Refuse what is no number and what has no end, which a range of click lets through."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"must be a finite number, got {value}.", ctx, param)
    return value


def sparsity_option(
    what: str, *, required: bool = True
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--sparsity``, which a verb gets as a decimal in [0, 1); None where it may be missing."""

    def checked(ctx: click.Context, param: click.Parameter, value: str | None) -> Decimal | None:
        from fusegpt.pruning.budget import check_sparsity

        return None if value is None else check_sparsity(value, "--sparsity")

    return click.option("--sparsity", required=required, callback=checked, help=what)


directory_option = click.option(
    "--directory",
    type=output_path,
    default=".",
    show_default="the current one",
    help="Directory with results/.",
)
results_option = click.option(
    "--results", type=output_path, default="results", show_default=True, help="Where results lie."
)


def dtype_of(default: str) -> Callable[[Any], Any]:
    """Return the option for the type of the weights, of a verb that has a type of its own."""
    return click.option(
        "--dtype",
        type=click.Choice(get_args(Dtype)),
        default=default,
        show_default=True,
        help="Dtype of the weights.",
    )


dtype_option = click.option(
    "--dtype",
    type=click.Choice(get_args(Dtype)),
    help="Dtype of the weights; the recipe's unless given.",
)
weights_option = click.option(
    "--weights",
    type=click.Choice(get_args(Weights)),
    default="auto",
    show_default=True,
    envvar="FUSEGPT_WEIGHTS",
    help="Weights all in memory, or read block by block; auto: resident if they fit. Results are"
    " the same.",
)
compile_option = click.option(
    "--compile",
    "compiled",
    is_flag=True,
    envvar="FUSEGPT_COMPILE",
    help="Compile the blocks that a tuning trains (torch.compile); results differ in rounding.",
)
device_option = click.option(
    "--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N."
)
devices_option = click.option(
    "--device",
    default="cpu",
    show_default=True,
    help="cpu, cuda or cuda:N; cudax2: on two GPUs, a process on each.",
)
