"""The dtypes in which a model is stored, which are not those that it is computed in (D46)."""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fusegpt.data.directories import weight_files
from fusegpt.errors import NumericsError
from fusegpt.models.model import Model, split_name
from fusegpt.models.stored import Stored, stored_in
from fusegpt.results import layout
from fusegpt.results.models import read_checkpoint
from fusegpt.runtime import dtype_name, torch_dtype

__all__ = ["SOURCE", "Storage", "exactly", "same_bits", "settle", "source_storage", "stored_as"]

SOURCE = "source"
"""The ``checkpoint_dtype`` that keeps each tensor in the dtype that the source has it in."""
NUMBERED = re.compile(r"((?:[^.]+\.)*?)(\d+)\.(.+)")
"""A name up to the number of its block, the number, and the rest."""


@dataclass(frozen=True)
class Storage:
    """The tensors of a model's files.

    Attributes:
        tensors: Each tensor, by its name there.
        kept: Dense index of each block in the files.
    """

    tensors: Mapping[str, Stored]
    kept: Sequence[int]

    @classmethod
    def of(cls, directory: Path, num_blocks: int) -> Storage:
        """Read the headers of a directory's weights.

        Args:
            directory: A transformers directory, or a checkpoint of ours.
            num_blocks: Blocks of the dense model.
        """
        notes = directory / layout.CHECKPOINT
        kept = read_checkpoint(notes).kept if notes.is_file() else range(num_blocks)
        return cls(stored_in(weight_files(directory)), list(kept))

    @functools.cached_property
    def floats(self) -> dict[str, torch.dtype]:
        """The dtype of each tensor of floats."""
        return {n: one.dtype for n, one in self.tensors.items() if one.dtype.is_floating_point}

    @functools.cached_property
    def usual(self) -> torch.dtype:
        """The dtype of most values."""
        counts: Counter[torch.dtype] = Counter()
        for name, dtype in self.floats.items():
            counts[dtype] += math.prod(self.tensors[name].shape)
        return counts.most_common(1)[0][0] if counts else torch.float32

    @functools.cached_property
    def _by_rest(self) -> dict[str, torch.dtype]:
        """The dtype of a parameter in any block, by its name inside the block."""
        return {rest: dtype for name, dtype in self.floats.items() for rest in [_rest(name)]}

    @functools.cached_property
    def _depths(self) -> dict[str, int]:
        return _depths(self.tensors)

    def originals(self, names: Iterable[str], kept: Sequence[int]) -> dict[str, str]:
        """Return what tensors are called in the files, those that are there.

        Args:
            names: All names of a model with fewer blocks, which are counted anew.
            kept: Dense indices of its blocks.
        """
        names = list(names)
        depths = _depths(names)
        places = [self.kept.index(index) for index in kept]
        found = {}
        for name in names:
            for called in self._candidates(name, depths, places):
                if called in self.tensors:
                    found[name] = called
                    break
        return found

    def _candidates(
        self, name: str, depths: Mapping[str, int], places: Sequence[int]
    ) -> Iterator[str]:
        """The name with the block's number in the files, with its first word and without."""
        match = NUMBERED.fullmatch(name)
        for words in (name, name.partition(".")[2]):
            numbered = NUMBERED.fullmatch(words)
            shorter = (
                match is not None
                and numbered is not None
                and depths[match[1]] == len(places) != len(self.kept)
                and self._depths.get(numbered[1]) == len(self.kept)
            )
            if shorter and numbered is not None:
                yield f"{numbered[1]}{places[int(numbered[2])]}.{numbered[3]}"
            else:
                yield words

    def dtype(self, name: str, original: str | None) -> torch.dtype:
        """Return the dtype that a tensor is stored in.

        Args:
            name: What it is called; one that the files lack has the dtype of its namesakes in
                other blocks, of its layer's weight, or of most values.
            original: What it is called in the files; None: it is not there.
        """
        if original is not None and original in self.floats:
            return self.floats[original]
        rest = _rest(name)
        weight = f"{rest.rpartition('.')[0]}.weight"
        return self._by_rest.get(rest) or self._by_rest.get(weight) or self.usual


def source_storage(model: Model) -> Storage | None:
    """Return how the model that a model came from is stored; None: it came from no weights."""
    if model.source is None or not any(model.source.glob("*.safetensors")):
        return None
    return Storage.of(model.source, model.num_blocks)


@torch.no_grad()
def settle(model: Model, to: str, names: Iterable[str] | None = None) -> None:
    """Round weights to the values that will be stored; they keep the dtype of the computation.

    So every later step, evaluation and checkpoint builds on what is on disk.

    Args:
        model: Changed in place.
        to: A recipe's ``checkpoint_dtype``. Another than ``source`` concerns every weight, not
            only the named ones.
        names: Parameters that changed, ``blocks.<dense index>.<parameter>``; None: all weights.

    Raises:
        NumericsError: A value is too large for the dtype that it is stored in.
    """
    if to == SOURCE and names is not None and not (names := list(names)):
        return
    tensors = model.module.state_dict()
    chosen = stored_as(model, to, None if to != SOURCE else names)
    for name, dtype in chosen.items():
        tensor = tensors[name] if name in tensors else model.parameter(name)
        _round(name, tensor, dtype, to)


def stored_as(model: Model, to: str, names: Iterable[str] | None = None) -> dict[str, torch.dtype]:
    """Return the dtypes that weights are stored in.

    Args:
        model: As pruned so far.
        to: A recipe's ``checkpoint_dtype``.
        names: Parameters, ``blocks.<dense index>.<parameter>``; None: all floats of the module,
            by their names in its state.
    """
    state = model.module.state_dict()
    floats = {name: name for name, tensor in state.items() if tensor.is_floating_point()}
    chosen = floats if names is None else _in_state(model, names)
    if to != SOURCE:
        return dict.fromkeys(chosen, torch_dtype(to))
    storage = source_storage(model)
    if storage is None:
        return {}
    originals = storage.originals(state, model.kept)
    return {name: storage.dtype(place, originals.get(place)) for name, place in chosen.items()}


def _round(name: str, tensor: Tensor, dtype: torch.dtype, to: str) -> None:
    if torch.promote_types(dtype, tensor.dtype) == dtype:
        return
    rounded = tensor.to(dtype)
    if (rounded.isinf() & tensor.isfinite()).any():
        largest, short = tensor.abs().max().item(), dtype_name(dtype)
        raise NumericsError(
            f"{name}: must fit into {short}, the dtype that it is stored in (checkpoint_dtype:"
            f" {to}), got {largest:.4g}; set checkpoint_dtype: float32 or bfloat16"
        )
    tensor.copy_(rounded)


def exactly(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor in another dtype if that keeps every value, or as it is."""
    cast = tensor.to(dtype)
    return cast if same_bits(cast.to(tensor.dtype), tensor) else tensor


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same bytes: a NaN equals itself, zero is not minus zero."""
    alike = (one.dtype, one.shape) == (other.dtype, other.shape)
    return alike and torch.equal(_bytes(one), _bytes(other))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8)


def _in_state(model: Model, names: Iterable[str]) -> dict[str, str]:
    """The names that parameters of blocks have in the module's state."""
    blocks = model.block_list
    path = next(name for name, child in model.module.named_modules() if child is blocks)
    split = {name: split_name(name) for name in names}
    return {
        name: f"{path}.{model.position(index)}.{inner}" for name, (index, inner) in split.items()
    }


def _rest(name: str) -> str:
    match = NUMBERED.fullmatch(name)
    return name if match is None else match[3]


def _depths(names: Iterable[str]) -> dict[str, int]:
    """How many blocks the names count, by what stands before the number."""
    depths: dict[str, int] = {}
    for match in filter(None, map(NUMBERED.fullmatch, names)):
        depths[match[1]] = max(depths.get(match[1], 0), int(match[2]) + 1)
    return depths
