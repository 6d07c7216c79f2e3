"""What was written is what is in memory: read back before the last file appears."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from fusegpt.data.directories import weight_files
from fusegpt.data.tokens import TOKENIZER_FILES, fingerprint, load_tokenizer
from fusegpt.errors import ArchitectureError, ArtifactError, first_line
from fusegpt.models.checkpoints.skeleton import without_memory
from fusegpt.models.checkpoints.storage import same_bits
from fusegpt.models.stored import Stored, stored_in
from fusegpt.models.surgery.round_trip import check_round_trip
from fusegpt.models.weights import storage_of
from fusegpt.runtime import quiet

__all__ = ["check_tokenizer", "check_written", "on_disk", "refused"]

WRITER = frozenset({"_name_or_path", "name_or_path", "transformers_version"})
"""Entries of a configuration that say who wrote it, not what the model is."""


@torch.no_grad()
def check_written(
    module: PreTrainedModel,
    directory: Path,
    value: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    *,
    streamed: bool = False,
) -> None:
    """Compare a checkpoint with the model that it was written from.

    The configuration must be read as the same one and build the same model; every tensor must
    come back with its name, its shape and, in the dtype of the computation, its bits. Tensors are
    read one at a time; where the names on disk are not those in memory (experts that are stored one
    by one), the whole is loaded, or built anew from one tensor at a time.

    Args:
        module: The model in memory.
        directory: Weights and configuration as they were written.
        value: Returns a tensor of the module's state in memory.
        streamed: There is no memory for the whole.

    Raises:
        ArtifactError: They differ; the message names the first difference.
    """
    with refused(directory):
        config = _same_config(module, directory)
        built = check_round_trip(module, config)
        written = on_disk(directory)
        memory = module.state_dict()
        if _are_all(memory, written, built):
            for name, place in written.items():
                _same_tensor(name, value(memory[name]), place.read())
        else:
            _same_when_loaded(module, config, directory, value, streamed)


def on_disk(directory: Path) -> dict[str, Stored]:
    """Find the tensors of a checkpoint that was just written; ``refused`` says what is wrong."""
    try:
        return stored_in(weight_files(directory))
    except ArtifactError as error:
        raise ValueError(str(error)) from error


@contextmanager
def refused(directory: Path) -> Iterator[None]:
    """Inside, whatever a checkpoint that was just written cannot be read for is worded."""
    try:
        yield
    except ArchitectureError as error:
        raise ArtifactError(f"{directory.name}: {error}") from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _differs(f"it cannot be read back ({first_line(error)})") from error


def check_tokenizer(source: Path, directory: Path) -> None:
    """Compare the tokenizer of a checkpoint with that of the model that it comes from.

    Args:
        source: Directory of the model; one without a tokenizer passes.
        directory: Where the checkpoint is written.

    Raises:
        ArtifactError: Tokens or chat templates differ, or the copy does not load.
    """
    if not any((source / name).is_file() for name in TOKENIZER_FILES):
        return
    try:
        before = load_tokenizer(source)
    except ArtifactError:  # broken where it came from, and copied as it was
        return
    after = load_tokenizer(directory)
    for what, one, other in (
        ("tokens", fingerprint(before), fingerprint(after)),
        ("special tokens", before.special_tokens_map, after.special_tokens_map),
        ("chat templates", before.chat_template, after.chat_template),
    ):
        if one != other:
            raise _differs(f"the tokenizer's {what} are not those of {source}")


def _differs(what: str) -> ArtifactError:
    return ArtifactError(
        f"checkpoint: must be what is in memory, but {what}; nothing was kept; report this, with"
        " the model's config.json and the version of transformers"
    )


def _same_config(module: PreTrainedModel, directory: Path) -> PretrainedConfig:
    """The configuration as a reload reads it, entry by entry that of the module."""
    with quiet():
        config: PretrainedConfig = type(module.config).from_pretrained(directory)
    have, read = _entries(module.config), _entries(config)
    for name in sorted(have.keys() | read.keys()):
        one, other = have.get(name, "nothing"), read.get(name, "nothing")
        if name not in WRITER and one != other:
            raise _differs(f"{name} in config.json is {other}, not {one}")
    return config


def _entries(config: PretrainedConfig) -> dict[str, Any]:
    return dict(_without_dtypes(json.loads(config.to_json_string(use_diff=False))))


def _without_dtypes(value: Any) -> Any:
    """Configurations inside a configuration state a dtype as well, which is that of the disk."""
    if not isinstance(value, dict):
        return value
    return {name: _without_dtypes(entry) for name, entry in value.items() if name != "dtype"}


def _are_all(
    memory: Mapping[str, Tensor], names: Mapping[str, Stored], built: PreTrainedModel
) -> bool:
    """Whether every tensor in memory is on disk by name, or tied to one that is."""
    if not names.keys() <= memory.keys():
        return False
    ties = built.state_dict(keep_vars=True)
    on_disk = {id(ties[name]) for name in names if name in ties}
    return all(name in names or id(ties.get(name)) in on_disk for name in memory)


def _same_when_loaded(
    module: PreTrainedModel,
    config: PretrainedConfig,
    directory: Path,
    value: Callable[[Tensor], Tensor],
    streamed: bool,
) -> None:
    """Load the whole, as whoever uses the checkpoint will, and compare."""
    built = without_memory(directory, type(module), config, module.dtype) if streamed else None
    if built is not None:
        again, info, places = built
        at = {
            storage_of(getattr(owner, leaf)): place
            for owner, leaves in places.items()
            for leaf, place in leaves.items()
        }
    else:
        again, info = _loaded(module, config, directory)
        at = {}
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[kind]:
            raise _differs(f"{kind.replace('_', ' ')}: {sorted(map(str, info[kind]))[0]}")
    memory, loaded = module.state_dict(), again.state_dict()
    for name in sorted(memory.keys() | loaded.keys()):
        if name not in memory or name not in loaded:
            raise _differs(f"{name} is there only {'in memory' if name in memory else 'on disk'}")
        place = at.get(storage_of(loaded[name]))
        disk = loaded[name] if place is None else place.read()
        _same_tensor(name, value(memory[name]), disk)


def _loaded(
    module: PreTrainedModel, config: PretrainedConfig, directory: Path
) -> tuple[PreTrainedModel, Any]:
    """The model as transformers loads it, and what it says of missing and unexpected names."""
    with quiet():
        again, info = type(module).from_pretrained(
            directory,
            config=config,
            dtype=module.dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    return again, info


def _same_tensor(name: str, memory: Tensor, disk: Tensor) -> None:
    if memory.is_floating_point() and disk.is_floating_point():
        disk = disk.to(memory.dtype)
    have, read = (f"{one.dtype} {list(one.shape)}" for one in (memory, disk))
    if have != read:
        raise _differs(f"{name} is {read} on disk, not {have}")
    if not same_bits(memory, disk):
        raise _differs(f"{name} has other values on disk")
