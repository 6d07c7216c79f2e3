"""JSON schemas of recipe and experiment files, by which editors complete and check YAML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from fusegpt.evaluation import EVALS
from fusegpt.importance import METRICS
from fusegpt.methods import Method
from fusegpt.pruning.sections import METHODS, Sections, WidthSections, WindowsSpec
from fusegpt.recovery import FINISHES, RECOVERIES
from fusegpt.slicegpt import WIDTHS
from fusegpt.workflow.schema import Configuration, Evaluation

__all__ = ["experiment_schema", "properties", "recipe_schema"]

Schema = dict[str, Any]

DRAFT = "http://json-schema.org/draft-07/schema#"
TABLES: Mapping[str, Mapping[str, Method[Any]]] = {
    "importance": METRICS,
    "recovery": RECOVERIES,
    "finish": FINISHES,
    "width": WIDTHS,
}


def recipe_schema() -> Schema:
    """Return the schema of a recipe file: one that removes units, or one with a section width."""
    return {"$schema": DRAFT, "title": "A recipe of fusegpt", **_recipe()}


def experiment_schema() -> Schema:
    """Return the schema of a configuration file: models, evaluations, experiments and the rest."""
    schema = _plain(Configuration)
    entries = {name: _entries(part) for name, part in schema["properties"].items()}
    recipe, settings = {"$ref": "#/definitions/recipe"}, {"$ref": "#/definitions/settings"}
    entries["recipes"]["additionalProperties"] = recipe
    entries["evaluations"]["additionalProperties"] = _evaluation()
    corpus = entries["corpora"]["additionalProperties"]
    entries["corpora"]["additionalProperties"] = {"anyOf": [corpus, {"type": "null"}]}
    experiment = entries["experiments"]["additionalProperties"]["properties"]
    experiment["settings"] = {**settings, "description": experiment["settings"]["description"]}
    experiment["recipe_settings"]["additionalProperties"] = settings
    return {
        "$schema": DRAFT,
        "title": "A configuration file of fusegpt",
        "type": "object",
        "additionalProperties": False,
        "properties": entries,
        "definitions": {"recipe": _recipe(), "settings": _settings()},
    }


def properties(settings: type[BaseModel]) -> dict[str, Schema]:
    """Return the schema of each setting of a class."""
    found: dict[str, Schema] = _plain(settings).get("properties", {})
    return found


def _recipe() -> Schema:
    width, depth = _sections(WidthSections), _sections(Sections)
    return {"if": {"required": ["width"]}, "then": width, "else": depth}


def _sections(sections: type[BaseModel]) -> Schema:
    """A recipe, whose sections with a method have that method's settings."""
    found = {name: part for name, part in properties(sections).items() if name != "name"}
    chosen = [name for name in METHODS if name in found]
    for name in chosen:
        found[name] = {
            "description": found[name]["description"],
            **_choice(METHODS[name], TABLES[name], _windows() if name == "finish" else {}),
        }
    required: Schema = {"required": [name for name in chosen if name != "finish"]}
    if "chain" in found:  # the other recipe has them
        required = {"if": {"required": ["chain"]}, "else": required}
    return {"type": "object", "additionalProperties": False, **required, "properties": found}


def _windows() -> Schema:
    """A finish names its windows among its settings."""
    about = "Windows that the finish trains on: those of finetune, with these laid over."
    windows = {"type": "object", "additionalProperties": False}
    return {"windows": {**windows, "description": about, "properties": properties(WindowsSpec)}}


def _evaluation() -> Schema:
    return _choice("eval", EVALS, {"dtype": properties(Evaluation)["dtype"]})


def _choice(key: str, table: Mapping[str, Method[Any]], more: Mapping[str, Schema]) -> Schema:
    """A table that names a method under ``key``, and may have that method's settings."""

    def of(name: str, method: Method[Any]) -> Schema:
        own = {key: {"const": name}, **more, **properties(method.schema)}
        then = {"additionalProperties": False, "properties": own, "description": method.summary}
        return {"if": {"properties": {key: {"const": name}}, "required": [key]}, "then": then}

    return {
        "type": "object",
        "required": [key],
        "properties": {key: {"enum": list(table), "description": "Name of the method."}},
        "allOf": [of(name, method) for name, method in table.items()],
    }


def _settings() -> Schema:
    """Settings laid over recipes: of a method's section, those of any method."""
    found = _without_defaults({**properties(WidthSections), **properties(Sections)})
    del found["name"]
    for section, table in TABLES.items():
        found[section] = _any_of(method.schema for method in table.values())
    found["finish"]["properties"] |= _without_defaults(_windows())
    return {"type": "object", "additionalProperties": False, "properties": found}


def _any_of(classes: Iterable[type[BaseModel]]) -> Schema:
    """The settings that at least one class has."""
    found: dict[str, list[Schema]] = {}
    for settings in classes:
        for name, part in _without_defaults(properties(settings)).items():
            if part not in found.setdefault(name, []):
                found[name].append(part)
    parts = {
        name: parts[0] if len(parts) == 1 else {"anyOf": parts} for name, parts in found.items()
    }
    return {"type": "object", "additionalProperties": False, "properties": parts}


def _entries(part: Schema) -> Schema:
    """A section of the configuration, which may be empty."""
    return {**part, "type": ["object", "null"]}


def _without_defaults(part: Any) -> Any:
    if isinstance(part, list):
        return [_without_defaults(item) for item in part]
    if not isinstance(part, dict):
        return part
    return {key: _without_defaults(value) for key, value in part.items() if key != "default"}


def _plain(model: type[BaseModel]) -> Schema:
    """The schema of a model with the parts it refers to written out, and without titles."""
    schema = model.model_json_schema()
    parts = schema.pop("$defs", {})
    found: Schema = _written_out(schema, parts)
    return found


def _written_out(part: Any, parts: Mapping[str, Schema]) -> Any:
    if isinstance(part, list):
        return [_written_out(item, parts) for item in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        part = parts[part["$ref"].rpartition("/")[2]] | {
            k: v for k, v in part.items() if k != "$ref"
        }
    return {
        key: _written_out(value, parts)
        for key, value in part.items()
        if key != "title" or not isinstance(value, str)
    }
