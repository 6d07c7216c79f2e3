"""The config round-trip check: would the config alone rebuild this model?"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from fusegpt.errors import ArchitectureError
from fusegpt.runtime import quiet

__all__ = ["check_round_trip", "rebuilt"]

IGNORED = frozenset({"training", "gradient_checkpointing", "name_or_path"})
"""Attributes that say how a model is used rather than what it is."""


def check_round_trip(
    module: PreTrainedModel, config: PretrainedConfig | None = None
) -> PreTrainedModel:
    """Build the model anew from its config, without memory, and compare.

    Compared are module names and types, parameter shapes, and plain attributes (numbers, strings,
    lists of them). This takes the place of a list of supported architectures.

    Args:
        module: The model in memory.
        config: The configuration as it was read from disk; None: the module's own.

    Returns:
        The model that the configuration builds, on the meta device.

    Raises:
        ArchitectureError: They differ; the message names the first differences.
    """
    other = rebuilt(module, config)
    differences = (
        _modules(module, other) or _parameters(module, other) or _attributes(module, other)
    )
    if differences:
        shown = "; ".join(differences[:3])
        more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise ArchitectureError(
            f"{type(module).__name__}: the config alone would not rebuild this model; {shown}{more}"
        )
    return other


def rebuilt(module: PreTrainedModel, config: PretrainedConfig | None = None) -> PreTrainedModel:
    """Build the model that its config, or one read from disk, describes, without memory."""
    try:
        with quiet(), torch.device("meta"):
            read = _reloaded(module.config if config is None else config)
            read._attn_implementation = module.config._attn_implementation  # is never written
            return type(module)(read)
    except Exception as error:  # whatever a config's or model's own checks raise
        raise ArchitectureError(
            f"{type(module).__name__}: its shortened config builds no model "
            f"({type(error).__name__}: {' '.join(str(error).split())})"
        ) from error


def _reloaded(config: PretrainedConfig) -> PretrainedConfig:
    """The config as a reload would read it."""
    read: PretrainedConfig = type(config).from_dict(copy.deepcopy(config.to_dict()))
    return read


def _modules(module: nn.Module, other: nn.Module) -> list[str]:
    have = {name: type(child).__name__ for name, child in module.named_modules()}
    built = {name: type(child).__name__ for name, child in other.named_modules()}
    return _compare(have, built)


def _parameters(module: nn.Module, other: nn.Module) -> list[str]:
    have = {n: tuple(p.shape) for n, p in module.named_parameters(remove_duplicate=False)}
    built = {n: tuple(p.shape) for n, p in other.named_parameters(remove_duplicate=False)}
    return _compare(have, built)


def _attributes(module: nn.Module, other: nn.Module) -> list[str]:
    children = dict(other.named_modules())
    found = []
    for name, child in module.named_modules():
        prefix = f"{name}." if name else ""
        have, built = _plain(child), _plain(children[name])
        common = {key for key in have.keys() & built.keys() if not _more_kinds(have, built, key)}
        found += _compare(
            {prefix + key: have[key] for key in sorted(common)},
            {prefix + key: built[key] for key in sorted(common)},
        )
    return found


def _more_kinds(have: dict[str, Any], built: dict[str, Any], name: str) -> bool:
    """Whether a module merely serves kinds of blocks, in a set, of which some are gone."""
    if name != "layer_types" or not isinstance(have[name], list):
        return False
    kinds = set(have[name])
    return len(kinds) == len(have[name]) and kinds >= set(built[name])


def _plain(module: nn.Module) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vars(module).items()
        if not name.startswith("_") and name not in IGNORED and _is_plain(value)
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (int, float, str, bool))


def _compare(have: dict[str, Any], built: dict[str, Any]) -> list[str]:
    return [
        f"{name}: {have.get(name, 'nothing')} vs {built.get(name, 'nothing')}"
        for name in have | built
        if have.get(name, "nothing") != built.get(name, "nothing")
    ]
