"""Files of the project: experiments by name or file, profiles, the Snakefile; merged settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fusegpt.config import builtin_config_dir
from fusegpt.errors import ConfigError
from fusegpt.registry import lookup
from fusegpt.workflow.experiment import make_plan
from fusegpt.workflow.plan import Plan
from fusegpt.yaml_files import read_yaml

__all__ = [
    "experiment_files",
    "merged",
    "plan_of",
    "profile_directory",
    "read_config",
    "snakefile",
]


def snakefile() -> Path:
    """The project's Snakefile, in a clone and in an installed package."""
    return builtin_config_dir().parent / "Snakefile"


def profile_directory(name: str) -> Path:
    """The directory of a profile of the project (``slurm``), or of one's own (``./mine``).

    Raises:
        UnknownNameError: Neither a profile's name nor a directory.
    """
    known = {folder.name: folder for folder in builtin_config_dir().glob("profiles/*")}
    if name not in known and Path(name).is_dir():
        return Path(name)
    return lookup(known, name, "profile")


def experiment_files(names: Sequence[str]) -> list[Path]:
    """The files behind names (``demo``) and paths (``mine/study.yaml``) of experiments.

    Raises:
        ConfigError: Neither a file nor the name of one in ``config/`` or ``config/experiments/``.
    """
    folder = builtin_config_dir()
    known = {file.stem: file for file in sorted(folder.glob("experiments/*.yaml"))}
    known["demo"] = folder / "demo.yaml"
    return [
        Path(name) if Path(name).is_file() else lookup(known, name, "experiment") for name in names
    ]


def merged(files: Sequence[Path]) -> dict[str, Any]:
    """``config.yaml`` with these files laid over it, in their order.

    Raises:
        ConfigError: A file cannot be read, or is no table.
    """
    result = read_config(builtin_config_dir() / "config.yaml")
    for file in files:
        result = _laid_over(result, read_config(file))
    return result


def plan_of(names: Sequence[str]) -> Plan:
    """The checked plan of experiments by name or file; ConfigError says what is wrong."""
    return make_plan(merged(experiment_files(names)), builtin_config_dir() / "recipes")


def read_config(file: Path) -> dict[str, Any]:
    """One configuration file, YAML or JSON.

    Raises:
        ConfigError: It cannot be read, or is no table.
    """
    value = read_yaml(file)
    if not isinstance(value or {}, dict):
        raise ConfigError(f"{file}: must be a table of keys and values, got {value!r:.60}")
    return value or {}


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """New tables throughout: what an alias of YAML names stands in several places."""
    result = dict(below)
    for key, value in above.items():
        if isinstance(value, Mapping):
            under = below.get(key)
            value = _laid_over(under if isinstance(under, Mapping) else {}, value)
        result[key] = value
    return result
