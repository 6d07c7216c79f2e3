"""A checkpoint that was just written, in the dtypes that it is stored in."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fusegpt.artifacts import read_json
from fusegpt.data.directories import INDEX, weight_files
from fusegpt.models.checkpoints.read_back import on_disk
from fusegpt.models.checkpoints.storage import (
    SOURCE,
    Storage,
    exactly,
    same_bits,
    source_storage,
)
from fusegpt.models.model import Model
from fusegpt.models.stored import metadata_of, stored_in, write_tensors
from fusegpt.results import layout
from fusegpt.runtime import DTYPES, dtype_name, torch_dtype

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
    originals = {} if storage is None else storage.originals(on_disk(directory), model.kept)
    counts: Counter[torch.dtype] = Counter()
    total = 0

    def wanted(name: str, now: torch.dtype) -> torch.dtype:
        if to != SOURCE:
            return torch_dtype(to)
        return storage.dtype(name, originals.get(name)) if storage else now

    def stored(name: str, written: Tensor) -> Tensor:
        original, dtype = originals.get(name), wanted(name, written.dtype)
        if storage is not None and original is not None:
            source = storage.tensors[original].read().to(dtype)
            if same_bits(source.to(written.dtype), written):
                return source
        return exactly(written, dtype)

    for path in files:
        _rewrite(path, wanted, stored)
    for tensor in on_disk(directory).values():
        total += tensor.nbytes
        if tensor.dtype.is_floating_point:
            counts[tensor.dtype] += math.prod(tensor.shape)
    _tell_index(directory / INDEX, total)
    _tell_config(directory / layout.CONFIG, _stated(counts, storage if to == SOURCE else None))
    return [dtype_name(dtype) for dtype, _ in counts.most_common()]


def _rewrite(
    path: Path,
    wanted: Callable[[str, torch.dtype], torch.dtype],
    stored: Callable[[str, Tensor], Tensor],
) -> None:
    """Replace a file if a tensor of it is stored in another dtype; one at a time is in memory."""
    written = stored_in([path])
    moving = {
        name
        for name, place in written.items()
        if place.dtype.is_floating_point and wanted(name, place.dtype) != place.dtype
    }

    def value(name: str) -> Tensor:
        tensor = written[name].read()
        return stored(name, tensor) if name in moving else tensor

    kinds = {
        name: (value(name).dtype if name in moving else place.dtype, place.shape)
        for name, place in written.items()
    }
    if any(kinds[name][0] != place.dtype for name, place in written.items()):
        beside = path.with_name(f"{path.name}.tmp")
        write_tensors(beside, kinds, value, metadata_of(path))
        os.replace(beside, path)


def _stated(counts: Counter[torch.dtype], storage: Storage | None) -> str | None:
    """The dtype that the configuration states, which loaders cast to; None: as it says already.

    A source with several dtypes keeps what it states; else the widest, so that nothing is lost.
    """
    if len(counts) > 1 and storage is not None and set(counts) <= {*storage.floats.values()}:
        config = read_json(next(iter(storage.tensors.values())).file.with_name(layout.CONFIG))
        found = next((config[key] for key in KEYS if config.get(key) in DTYPES), None)
        return found or dtype_name(storage.usual)
    widest = None
    for dtype in counts:
        widest = dtype if widest is None else torch.promote_types(widest, dtype)
    return None if widest is None else dtype_name(widest)


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
