"""A model as transformers builds it from its files, before any weight is read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

from fusegpt.data.directories import SINGLE, weight_files
from fusegpt.models.stored import Joined, Stored, stored_in
from fusegpt.models.weights import Places, owner_of, places_of, storage_of

__all__ = ["without_memory"]

JOINS = {"MergeModulelist", "Concatenate"}
"""What transformers calls the conversions that put whole tensors behind each other."""
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
        weights. None where weights on disk are neither those that the model computes with nor
        parts of them.

    Raises:
        ArtifactError: A file of weights is missing or corrupt.
    """
    single = path / SINGLE
    stored = stored_in([single] if single.is_file() else weight_files(path))
    absent = {name: _Absent(place) for name, place in stored.items()}
    joins = _Joins(absent.values())
    with _without_threads(), joins:
        module, info = cls.from_pretrained(
            None, config=config, dtype=dtype, state_dict=absent, output_loading_info=True
        )
    operations = {
        type(operation).__name__
        for used in module._weight_conversions or ()
        for operation in getattr(used, "operations", ())
    }
    places = places_of(module, joins.found()) if operations <= JOINS else None
    if places is None:
        return None
    _tie_equal(module, places)
    for holder in (module, module.config):
        holder.name_or_path = str(path)
    module.generation_config = _generation_config(path)
    return module, info, places


def _tie_equal(module: PreTrainedModel, places: Places) -> None:
    """Tie what the configuration ties and the files hold twice; not where their values differ.

    So transformers does, but only once it has the values.
    """
    for target, source in list(module.all_tied_weights_keys.items()):
        (owner, leaf), (first, name) = owner_of(module, target), owner_of(module, source)
        one, other = places.get(owner, {}).get(leaf), places.get(first, {}).get(name)
        if not isinstance(one, Stored) or not isinstance(other, Stored) or one == other:
            continue
        if one.equals(other):
            setattr(owner, leaf, getattr(first, name))
            places[owner][leaf] = other
        else:
            module.all_tied_weights_keys.pop(target)


class _Joins(TorchDispatchMode):
    """Inside, what is made of absent tensors by putting them together is known as that.

    Args:
        absent: All of them.
    """

    def __init__(self, absent: Iterable[_Absent]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._absent = list(absent)
        self._made: list[tuple[Tensor, Sequence[Tensor], int, bool]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        stacked = func is torch.ops.aten.stack.default
        if stacked or func is torch.ops.aten.cat.default:
            dim = args[1] if len(args) > 1 else 0
            self._made.append((made, args[0], dim % made.dim(), stacked))
        elif func is torch.ops.aten.constant_pad_nd.default and made.shape == args[0].shape:
            self._made.append((made, args[:1], 0, False))  # a head's bias, when it is tied
        return made

    def found(self) -> dict[int, Stored | Joined]:
        """Return the places of all of them, by ``storage_of``."""
        places: dict[int, Stored | Joined] = {
            storage_of(each.made): each.stored for each in self._absent
        }
        for made, parts, dim, stacked in self._made:
            known = [places.get(storage_of(part)) for part in parts]
            if None not in known:
                places[storage_of(made)] = Joined(tuple(filter(None, known)), dim, stacked)
        return places


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
