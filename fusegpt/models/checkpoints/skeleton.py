"""A model as transformers builds it from its files, before any weight is read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

from fusegpt.data.directories import SINGLE, weight_files
from fusegpt.models.stored import Stored, stored_in
from fusegpt.models.weights import Places, places_of, storage_of

__all__ = ["without_memory"]

ASYNC = "HF_DEACTIVATE_ASYNC_LOAD"


class _Absent:
    """Stands for a tensor on disk while transformers loads it: has a shape, and no values."""

    def __init__(self, stored: Stored) -> None:
        self.stored = stored
        self.made = torch.empty(0, device="meta")

    def __getitem__(self, index: Any) -> _Absent:
        return self

    def to(self, *, device: Any = None, dtype: torch.dtype | None = None) -> Tensor:
        shape, dtype = self.stored.shape, dtype or self.stored.dtype
        self.made = torch.empty(shape, dtype=dtype, device="meta")
        return self.made


def without_memory(
    path: Path, cls: Any, config: PretrainedConfig, dtype: torch.dtype
) -> tuple[PreTrainedModel, dict[str, Any], Places] | None:
    """Build a model whose weights are not in memory, through transformers' own loading.

    Names, types, ties and all that is computed and not stored are as after ``from_pretrained``.

    Args:
        path: Directory of the model.
        cls: The model's class.
        config: The model's configuration.
        dtype: The dtype of the weights.

    Returns:
        The model, what transformers says of missing and unexpected names, and the places of the
        weights. None where weights on disk are not those that the model computes with.

    Raises:
        ArtifactError: A file of weights is missing or corrupt.
    """
    single = path / SINGLE
    stored = stored_in([single] if single.is_file() else weight_files(path))
    absent = {name: _Absent(place) for name, place in stored.items()}
    with _without_threads():
        module, info = cls.from_pretrained(
            None, config=config, dtype=dtype, state_dict=absent, output_loading_info=True
        )
    converted = any(
        type(used).__name__ == "WeightConverter" for used in module._weight_conversions or ()
    )
    by_storage = {storage_of(each.made): each.stored for each in absent.values()}
    places = None if converted else places_of(module, by_storage)
    if places is None:
        return None
    for holder in (module, module.config):
        holder.name_or_path = str(path)
    module.generation_config = _generation_config(path)
    return module, info, places


@contextmanager
def _without_threads() -> Iterator[None]:
    """Inside, transformers starts no threads to load weights, of which there are none."""
    before = os.environ.get(ASYNC)
    os.environ[ASYNC] = "1"
    try:
        yield
    finally:
        os.environ.pop(ASYNC)
        if before is not None:
            os.environ[ASYNC] = before


def _generation_config(path: Path) -> GenerationConfig:
    """As ``from_pretrained`` finds it: in its own file, or in the model's configuration."""
    try:
        return GenerationConfig.from_pretrained(path, local_files_only=True)
    except OSError:
        return GenerationConfig.from_pretrained(
            path, config_file_name="config.json", _from_model_config=True, local_files_only=True
        )
