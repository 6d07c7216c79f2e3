"""A checkpoint that was just written, in the dtypes that it is stored in."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fusegpt.artifacts import read_json
from fusegpt.data.directories import INDEX, weight_files
from fusegpt.models.checkpoints.storage import (
    SOURCE,
    Storage,
    exactly,
    same_bits,
    source_storage,
)
from fusegpt.models.model import Model
from fusegpt.results import layout
from fusegpt.runtime import DTYPES, torch_dtype

__all__ = ["store"]

KEYS = ("dtype", "torch_dtype")


def store(directory: Path, model: Model, to: str) -> list[str]:
    """Rewrite the tensors of a checkpoint in the dtypes that they are stored in.

    What is untouched becomes what the source has, bit for bit. What changed is cast where that
    loses nothing (see ``settle``), and stays as it is elsewhere: old deltas were not rounded.

    Args:
        directory: As ``save_pretrained`` left it; the files are replaced.
        model: What was written.
        to: ``source``, or one dtype for all.

    Returns:
        The dtypes of the floats on disk, that of most values first.
    """
    storage = source_storage(model)
    files = weight_files(directory)
    names = [name for path in files for name in _names(path)]
    originals = {} if storage is None else storage.originals(names, model.kept)
    counts: Counter[torch.dtype] = Counter()
    total = 0

    def stored(name: str, written: Tensor) -> Tensor:
        original = originals.get(name)
        if to != SOURCE:
            dtype = torch_dtype(to)
        else:
            dtype = storage.dtype(name, original) if storage else written.dtype
        if dtype == written.dtype:
            return written
        if storage is not None and original is not None:
            source = storage.tensors[original].read().to(dtype)
            if same_bits(source.to(written.dtype), written):
                return source
        return exactly(written, dtype)

    for path in files:
        for tensor in _rewrite(path, stored):
            total += tensor.nbytes
            if tensor.is_floating_point():
                counts[tensor.dtype] += tensor.numel()
    _tell_index(directory / INDEX, total)
    _tell_config(directory / layout.CONFIG, _stated(counts, storage if to == SOURCE else None))
    return [_name(dtype) for dtype, _ in counts.most_common()]


def _rewrite(path: Path, stored: Callable[[str, Tensor], Tensor]) -> list[Tensor]:
    """Replace a file if a tensor of it is stored in another dtype; its tensors as they are now."""
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
        written = {name: file.get_tensor(name) for name in file.keys()}
    tensors = {
        name: stored(name, tensor) if tensor.is_floating_point() else tensor
        for name, tensor in written.items()
    }
    if any(tensors[name].dtype != written[name].dtype for name in tensors):
        beside = path.with_name(f"{path.name}.tmp")
        save_file(tensors, beside, metadata=about)
        os.replace(beside, path)
    return list(tensors.values())


def _names(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def _stated(counts: Counter[torch.dtype], storage: Storage | None) -> str | None:
    """The dtype that the configuration states, which loaders cast to; None: as it says already.

    A source with several dtypes keeps what it states; else the widest, so that nothing is lost.
    """
    if len(counts) > 1 and storage is not None and set(counts) <= {*storage.floats.values()}:
        config = read_json(next(iter(storage.tensors.values())).file.with_name(layout.CONFIG))
        found = next((config[key] for key in KEYS if config.get(key) in DTYPES), None)
        return found or _name(storage.usual)
    widest = None
    for dtype in counts:
        widest = dtype if widest is None else torch.promote_types(widest, dtype)
    return None if widest is None else _name(widest)


def _tell_config(file: Path, dtype: str | None) -> None:
    config = read_json(file) if file.is_file() else {}  # its absence shows when it is read back
    if dtype is not None and _restated(config, dtype):
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _restated(config: dict[str, Any], dtype: str) -> bool:
    """Put a dtype in place of every stated one, at any depth; whether one was another."""
    changed = False
    for key, value in config.items():
        if key in KEYS and value in DTYPES and value != dtype:
            config[key], changed = dtype, True
        elif isinstance(value, dict):
            changed |= _restated(value, dtype)
    return changed


def _tell_index(file: Path, total: int) -> None:
    if file.is_file():
        index = read_json(file)
        index["metadata"]["total_size"] = total
        file.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
