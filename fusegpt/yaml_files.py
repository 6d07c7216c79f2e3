"""YAML files, read strictly: a key that stands twice is refused, and every fault is one line."""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from fusegpt.errors import ConfigError, one_line, reason_of

__all__ = ["check_plain", "read_yaml", "read_yaml_text"]


class _Strict(yaml.SafeLoader):  # type: ignore[misc]
    """YAML's plain types; a table names each key once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a table; what ``<<`` merges into it may be overridden, as YAML says."""
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        names = [self.construct_object(key, deep=True) for key in own]
        for place, (name, key) in enumerate(zip(names, own, strict=True)):
            if name in names[:place]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {name!r} stands twice", key.start_mark
                )
        table: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return table


def read_yaml(path: Path, what: str = "a YAML file") -> Any:
    """Read a YAML or, by its suffix, a JSON file.

    Args:
        path: The file.
        what: What it must be, for messages.

    Raises:
        ConfigError: It cannot be read, is not UTF-8, is nested too deeply, or names a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        reason = reason_of(error)
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: must be {what} in UTF-8, got byte {error.object[error.start]:#04x} at place"
            f" {error.start}; save it as UTF-8"
        ) from None
    return read_yaml_text(text, str(path), what, json_only=path.suffix == ".json")


def read_yaml_text(
    text: str, where: str, what: str = "a YAML file", *, json_only: bool = False
) -> Any:
    """Read a text as YAML, or as JSON.

    Raises:
        ConfigError: It is none, is nested too deeply, or names a key twice.
    """
    try:
        if json_only:
            return read_json_text(text)
        return yaml.load(text, _Strict)
    except RecursionError:
        raise ConfigError(f"{where}: must not be nested so deeply; look at its brackets") from None
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise ConfigError(f"{where}: not {what}: {one_line(error)}") from None


def read_json_text(text: str) -> Any:
    """Read a text as JSON.

    Raises:
        ValueError: It is none, or names a key twice.
        RecursionError: It is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice!r} stands twice")
    return table


def check_plain(value: Any, where: str = "") -> None:
    """Refuse what YAML knows and JSON does not: dates, sets, binary data.

    Raises:
        ConfigError: Something else than tables, lists, text, numbers, true, false and null.
    """
    if isinstance(value, dict):
        for key, each in value.items():
            name = f"{where}.{key}" if where else str(key)
            if isinstance(key, bool) or not isinstance(key, str | int | float):
                raise ConfigError(f"{name}: a key must be text or a number, got {key!r:.60}")
            check_plain(each, name)
    elif isinstance(value, list):
        for place, each in enumerate(value):
            check_plain(each, f"{where}.{place}")
    elif value is not None and not isinstance(value, str | int | float | bool):
        raise ConfigError(
            f"{where}: must be text, a number, true, false, null, a list or a table, got"
            f" {type(value).__name__} {str(value)[:40]!r}; put text in quotes"
        )
