"""What settings there are and what they mean, as text: all recipes, one recipe, all methods."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel
from tabulate import tabulate

from fusegpt.config import builtin_config_dir
from fusegpt.evaluation import EVALS
from fusegpt.importance import METRICS
from fusegpt.importance.settings import MetricSettings
from fusegpt.methods import Method
from fusegpt.pruning.recipe import Recipe, recipe_names
from fusegpt.pruning.sections import Rerank, Sections, WindowsSpec
from fusegpt.recovery import FINISHES, RECOVERIES
from fusegpt.slicegpt import WIDTHS
from fusegpt.workflow.json_schema import properties

__all__ = ["Setting", "explained", "recipe_list", "settings_document", "settings_of"]

PARTS = ("calibration", "finetune", "rerank")
"""Keys of a recipe that are tables of settings, without a method."""


class Setting(NamedTuple):
    """A setting of a class.

    Attributes:
        name: Its key.
        default: Its default value, as in YAML; empty: it must be given, or is a table.
        allowed: What values it takes.
        meaning: What it means.
    """

    name: str
    default: str
    allowed: str
    meaning: str


def settings_of(settings: type[BaseModel]) -> list[Setting]:
    """Return the settings of a class in their order."""
    return [
        Setting(
            name,
            _value(part["default"]) if "default" in part else "",
            _allowed(part),
            part.get("description", ""),
        )
        for name, part in properties(settings).items()
    ]


def recipe_list() -> str:
    """Return the project's recipes, a line each, with the first sentence of their files."""
    folder = builtin_config_dir() / "recipes"
    rows = [(name, _comment(folder / f"{name}.yaml")) for name in recipe_names()]
    found: str = tabulate(rows, headers=("recipe", "what it is"), maxcolwidths=[None, _width(44)])
    return found


def explained(recipe: Recipe) -> str:
    """Return every setting of a recipe with value, default and meaning, and its methods' papers."""
    lines = [f"{recipe.name} ({recipe.id})"]
    values = recipe.to_json()
    for title, method, settings in _chosen(recipe):
        lines += ["", f"{title}: {method.summary}"]
        lines += [f"  {settings.paper}"] if settings.paper else []
        lines += [_table(settings_of(type(settings)), dict(settings))]
    for name in PARTS:
        if name in values and (name != "finetune" or recipe.needs_windows):
            part: BaseModel = getattr(recipe, name)
            lines += ["", f"{name}:", _table(settings_of(type(part)), dict(part))]
    if recipe.finish_windows is not None:
        windows = dict(recipe.finish_windows)
        lines += ["", "finish.windows:", _table(settings_of(WindowsSpec), windows)]
    later = ("checkpoint_dtype",) if recipe.slices else ("checkpoint_dtype", "keep_pattern")
    values |= {name: getattr(recipe, name) for name in later}
    plain = [setting for setting in settings_of(Sections) if _is_plain(setting.name, values)]
    lines += ["", "the recipe:", _table(plain, values)]
    return "\n".join(lines)


def settings_document() -> str:
    """Return the tables of ``docs/settings.md``."""
    sections = [setting for setting in settings_of(Sections) if setting.name != "name"]
    parts = [
        _HEAD,
        "## A recipe\n",
        _markdown(sections),
        "## Windows: `calibration`, `finetune` and `finish.windows`\n",
        "`calibration` has 32 windows where `finetune` has 1024; of a width recipe it has 128."
        " `finish.windows` are those of `finetune`, with its own settings laid over.\n",
        _markdown(settings_of(WindowsSpec)),
        "## Trials: `rerank`\n",
        _markdown(settings_of(Rerank)),
        "## Metrics: `importance`\n",
        "Every metric has\n",
        _markdown(settings_of(MetricSettings)),
    ]
    shared = {setting.name for setting in settings_of(MetricSettings)}
    parts += list(_methods(METRICS, shared))
    for title, table in (
        ("Recoveries: `recovery`", RECOVERIES),
        ("Finishes: `finish`", FINISHES),
        ("Width methods: `width`", WIDTHS),
        ("Evaluations", EVALS),
    ):
        parts += [f"## {title}\n", *_methods(table, set())]
    return "\n".join(parts)


_HEAD = """# Settings

Every setting with its default, from the classes that check it; `make settings` writes this page.
`fusegpt recipes NAME` explains those of one recipe, and editors that read `config/schema` complete
and check them while you type.
"""


def _methods(table: Mapping[str, Method[Any]], shared: set[str]) -> Iterator[str]:
    for name, method in table.items():
        schema = method.schema
        paper = f" Source: {schema.paper}." if schema.paper else ""
        yield f"### `{name}`\n\n{method.summary}{paper}\n"
        own = [setting for setting in settings_of(schema) if setting.name not in shared]
        if own:
            yield _markdown(own)


def _markdown(settings: list[Setting]) -> str:
    lines = ["| setting | default | allowed | meaning |", "|---|---|---|---|"]
    for setting in settings:
        default = f"`{setting.default}`" if setting.default else ""
        cells = (f"`{setting.name}`", default, setting.allowed, setting.meaning)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _chosen(recipe: Recipe) -> Iterator[tuple[str, Method[Any], Any]]:
    """The methods of a recipe with their settings in it."""
    if recipe.width is not None:
        yield f"width {recipe.width_method}", WIDTHS[str(recipe.width_method)], recipe.width
        return
    yield f"importance {recipe.metric}", METRICS[recipe.metric], recipe.importance
    yield f"recovery {recipe.method}", RECOVERIES[recipe.method], recipe.recovery
    if recipe.finish is not None:
        method = str(recipe.finish_method)
        yield f"finish {method}", FINISHES[method], recipe.finish


def _is_plain(name: str, values: Mapping[str, Any]) -> bool:
    return name in values and name != "name" and not isinstance(values[name], Mapping)


def _table(settings: list[Setting], values: Mapping[str, Any]) -> str:
    rows = []
    for setting in settings:
        value = _value(values[setting.name])
        default = "" if value == setting.default else setting.default
        rows.append((setting.name, value, default, f"{setting.meaning} [{setting.allowed}]"))
    headers = ("setting", "value", "default", "meaning")
    widths = [None, None, None, _width(50)]
    found: str = tabulate(rows, headers=headers, maxcolwidths=widths, disable_numparse=True)
    return found


def _width(used: int) -> int:
    """Columns that are left for prose."""
    return max(40, shutil.get_terminal_size().columns - used)


def _comment(file: Path) -> str:
    """The comment at the head of a YAML file, up to its first full stop."""
    lines = file.read_text(encoding="utf-8").splitlines()
    words = [line[1:].strip() for line in lines if line.startswith("#") and "$schema=" not in line]
    return f"{' '.join(words).partition('. ')[0].rstrip('.')}."


def _value(value: Any) -> str:
    """A value as one writes it in YAML."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return "" if isinstance(value, Mapping) else str(value)


def _allowed(part: Mapping[str, Any]) -> str:
    """What values a setting takes, in words."""
    if kinds := part.get("anyOf") or part.get("oneOf"):
        return ", ".join(_allowed(each) for each in kinds)
    if "enum" in part:
        return ", ".join(map(str, part["enum"]))
    kind = part.get("type")
    if kind == "array":
        return f"list ({_allowed(part['items'])})"
    names = {"integer": "whole number", "string": "text", "boolean": "true, false"}
    words = [names.get(str(kind), str(kind).replace("object", "table"))]
    bounds = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    words += [f"{word} {part[key]:g}" for key, word in bounds.items() if key in part]
    return " ".join(words)
