"""Model: a transformers model whose blocks keep their numbers from the dense model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from fusegpt.data.carried import Carried
from fusegpt.data.tokens import load_tokenizer
from fusegpt.errors import ArtifactError
from fusegpt.models.blocks import find_blocks, text_config
from fusegpt.models.sublayers import Removed
from fusegpt.units import KINDS, Granularity, Unit

if TYPE_CHECKING:
    from fusegpt.models.parts import Branches
    from fusegpt.models.streamed import StreamedBlocks
    from fusegpt.nn.fused import FusedWeight

__all__ = ["Model"]

RATES = frozenset({"A_log", "D", "dt_bias"})
"""Names of the parameters of state-space models that set how fast a state fades."""


@dataclass(eq=False)
class Model:
    """A causal or image-text model as pruned so far.

    Attributes:
        module: The transformers model, in eval mode.
        kept: Dense index of each remaining block, in order.
        num_blocks: Number of blocks of the dense model.
        removed: What was removed, in order.
        source: Directory that the model came from, with its tokenizer and config.
        fused: Weights with unfolded fusions, keyed ``blocks.<dense index>.<param>``.
        adapter_state: Tensors of a step chain that are not weights: ``fused/...``, ``donor/...``;
            on the CPU.
        streamed: What reads the weights of blocks when they run; None: all are in memory.
    """

    module: PreTrainedModel
    kept: list[int]
    num_blocks: int
    removed: list[Unit] = field(default_factory=list)
    source: Path | None = None
    fused: dict[str, FusedWeight] = field(default_factory=dict)
    adapter_state: dict[str, Tensor] = field(default_factory=dict)
    streamed: StreamedBlocks | None = field(default=None, repr=False)
    returns: int | None = field(default=None, repr=False)
    """Length of the tuple that a block returns, 0 for a bare tensor, None as long as none ran."""
    checked: set[tuple[Any, ...]] = field(default_factory=set, repr=False)
    """Sets of remaining units that passed the config round-trip check."""
    branches: dict[int, Branches | str] = field(default_factory=dict, repr=False)
    """Attention and mlp of each block that was probed, or why they cannot be told apart."""

    @classmethod
    def dense(cls, module: PreTrainedModel, source: Path | None = None) -> Model:
        """Take a module in which every block is in place, and put it in eval mode."""
        count = len(find_blocks(module).blocks)
        return cls(module.eval(), list(range(count)), count, source=source)

    @cached_property
    def block_list(self) -> nn.ModuleList:
        """The list object in the module; the same one however often entries are taken out."""
        return find_blocks(self.module).blocks

    @property
    def blocks(self) -> list[nn.Module]:
        """The remaining blocks, in order."""
        return list(self.block_list)

    @property
    def text_config(self) -> PretrainedConfig:
        """The decoder's config."""
        return text_config(self.module)

    @property
    def device(self) -> torch.device:
        """Where the weights lie, or the blocks run."""
        if self.streamed is not None:
            return self.streamed.device
        device: torch.device = next(self.module.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        dtype: torch.dtype = self.module.dtype
        return dtype

    @cached_property
    def tokenizer(self) -> Any:
        """The source directory's tokenizer.

        Raises:
            ArtifactError: The source directory has none.
        """
        if self.source is None:
            raise ArtifactError("model: must come from a directory to have a tokenizer")
        return load_tokenizer(self.source)

    @property
    def lacking(self) -> frozenset[Unit]:
        """The attentions and mlps that remaining blocks do without, as the config says."""
        removed = getattr(self.module.config, "removed_sublayers", None) or {}
        return frozenset(
            Unit(kind, self.kept[int(place)])
            for kind in KINDS["mixed"]
            for place in removed.get(kind, ())
        )

    def units(self, granularity: Granularity = "block") -> list[Unit]:
        """The remaining units, in order."""
        lacking = self.lacking
        units = [Unit(kind, index) for index in self.kept for kind in KINDS[granularity]]
        return [unit for unit in units if unit not in lacking]

    def position(self, index: int) -> int:
        """Where the block with a dense index stands among the remaining ones."""
        assert index in self.kept, f"block {index} was removed; remaining: {self.kept}"
        return self.kept.index(index)

    def block(self, index: int) -> nn.Module:
        """The remaining block with a dense index."""
        return self.block_list[self.position(index)]

    def matrices(self, index: int) -> dict[str, nn.Parameter]:
        """The matrices that fusion pairs by name; stacked experts have three axes."""
        return self._parameters(index, "matrix")

    def biases(self, index: int) -> dict[str, nn.Parameter]:
        """1-D parameters of the modules that also own a matrix."""
        return self._parameters(index, "bias")

    def norms(self, index: int) -> dict[str, nn.Parameter]:
        """All other parameters: norms, gates, sinks, convolutions, rates of recurrences (D23)."""
        return self._parameters(index, "rest")

    def _parameters(self, index: int, role: str) -> dict[str, nn.Parameter]:
        return {name: p for name, p, its_role in _roles(self.block(index)) if its_role == role}

    def is_gone(self, name: str) -> bool:
        """Whether ``blocks.<dense index>.<param name inside the block>`` went with a unit."""
        index, inner = split_name(name)
        if index not in self.kept:
            return True
        place: nn.Module | None = self.block(index)
        for part in inner.split(".")[:-1]:
            place = None if place is None else place._modules.get(part)
            if isinstance(place, Removed):
                return True
        return False

    @contextmanager
    def present(self, position: int, ahead: int | None = None) -> Iterator[None]:
        """Inside, the weights of a block are in memory; of no effect where all are.

        Args:
            position: Place in the list of remaining blocks.
            ahead: Place of the block that is needed next.
        """
        if self.streamed is None:
            yield
            return
        following = None if ahead is None else self.block_list[ahead]
        with self.streamed.present(self.block_list[position], following):
            yield

    def hold(self, indices: Iterable[int]) -> None:
        """Keep the weights of some blocks in memory from now on.

        Args:
            indices: Dense indices of remaining blocks.
        """
        if self.streamed is not None:
            for index in indices:
                self.streamed.enter(self.block(index))

    def value(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the module's state, read from disk if it is not in memory."""
        return tensor if self.streamed is None else self.streamed.value(tensor)

    def parameter(self, name: str) -> nn.Parameter:
        """The parameter called ``blocks.<dense index>.<param name inside the block>``."""
        index, inner = split_name(name)
        return self.block(index).get_parameter(inner)

    def inputs(self, batch: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keyword arguments of the forward pass, on the model's device and of its dtype.

        Args:
            batch: Token ids ``[batch, seq]``, with what they carry, or a processor's output.
        """
        if isinstance(batch, Carried):
            batch = batch.inputs()
        items = {"input_ids": batch} if isinstance(batch, Tensor) else dict(batch)
        return {
            name: value.to(self.device, self.dtype if value.is_floating_point() else None)
            for name, value in items.items()
        }


def split_name(name: str) -> tuple[int, str]:
    """Take ``blocks.<dense index>.<param>`` apart.

    Raises:
        ArtifactError: It is no such name.
    """
    parts = name.split(".", 2)
    if len(parts) != 3 or parts[0] != "blocks" or not parts[1].isdigit():
        raise ArtifactError(f"tensor {name!r}: must be named blocks.<dense index>.<parameter>")
    return int(parts[1]), parts[2]


def _roles(block: nn.Module) -> Iterator[tuple[str, nn.Parameter, str]]:
    """Every parameter of a block with its role in fusion: matrix, bias or rest."""
    for prefix, module in block.named_modules():
        own = dict(module.named_parameters(recurse=False))
        linear = {name: p for name, p in own.items() if name not in RATES and not _filters(module)}
        biased = any(p.dim() >= 2 for p in linear.values())
        for name, parameter in own.items():
            role = "rest"
            if name in linear and biased:
                role = "matrix" if parameter.dim() >= 2 else "bias"
            yield f"{prefix}.{name}" if prefix else name, parameter, role


def _filters(module: nn.Module) -> bool:
    return isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
