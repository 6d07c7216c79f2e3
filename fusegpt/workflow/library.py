"""The experiments that come with the project, for those who name one without its file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusegpt.errors import ConfigError
from fusegpt.yaml_files import read_yaml

__all__ = ["with_library"]


def with_library(configuration: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Lay a configuration over every experiment file of a folder.

    Args:
        configuration: The merged configuration, which names no experiment of its own.
        folder: With experiment files; each may bring models, tasks, evaluations and recipes.

    Returns:
        The configuration with everything that the files define; its own entries stay as they are.

    Raises:
        ConfigError: Two files mean different things by one name.
    """
    origin: dict[tuple[str, str], Path] = {}
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.glob("*.yaml")):
        for section, entries in read_yaml(file).items():
            table = found.setdefault(section, {})
            for name, entry in (entries or {}).items():
                if table.setdefault(name, entry) != entry:
                    raise ConfigError(
                        f"{file}: {section}.{name} means something else than in "
                        f"{origin[section, name].name}; choose another name"
                    )
                origin.setdefault((section, name), file)
    merged = dict(configuration)
    for section, table in found.items():
        merged[section] = {**table, **(configuration.get(section) or {})}
    return merged
