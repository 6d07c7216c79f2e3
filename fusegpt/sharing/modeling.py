"""The model class of compact checkpoints. Importing this module lets the auto classes load them.

A shared block is the family's own block whose linear layers compute with those of another block:
``scale · (W + up · down) · x + bias``, where W belongs to the other block and is stored there; or
with matrix and bias of the other block as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from fusegpt.errors import ArchitectureError
from fusegpt.models.blocks import find_blocks
from fusegpt.models.model import Model
from fusegpt.models.wrapped import (
    WrappedConfig,
    WrappedForCausalLM,
    dense_config,
    wrapped,
)

__all__ = [
    "SharedConfig",
    "SharedForCausalLM",
    "SharedLinear",
    "expand",
    "finished",
    "linear_layers",
    "linear_shapes",
    "share",
]

NEEDS = "import fusegpt.sharing.modeling"


class SharedConfig(WrappedConfig):
    """The configuration of a model whose blocks share weights.

    Attributes:
        text_config: The dense model's config.
        sources: By the number of a shared block, as text, the number of the block whose weights it
            computes with.
        rank: Rank of the adapters; 0: there are none.
    """

    model_type = "fusegpt_shared"

    def __init__(
        self,
        text_config: Any = None,
        sources: Mapping[str, int] | None = None,
        rank: int = 1,
        **kwargs: Any,
    ) -> None:
        """Complete what is not given: nothing is shared."""
        self.sources = dict(sources or {})
        self.rank = rank
        super().__init__(text_config, **kwargs)


class SharedLinear(nn.Module):
    """A linear layer that computes with another one's matrix, adapted and rescaled.

    Args:
        base: The other layer. It is no part of this one, so that its matrix is stored once.
        rank: Rank of the adapter, cut to what the matrix can have. 0: there is neither adapter nor
            scale, and the other layer's bias is shared, too.
    """

    base: nn.Linear

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.__dict__["base"] = base
        rows, columns = base.weight.shape
        rank = min(rank, rows, columns)
        if not rank:
            for name in ("down", "up", "scale", "bias"):
                self.register_parameter(name, None)
            return
        self.down = _empty(base, rank, columns)
        self.up = _empty(base, rows, rank)
        self.scale = _empty(base, rows)
        self.bias = None if base.bias is None else _empty(base, rows)

    @property
    def borrowed(self) -> int:
        """Number of values of the other layer's matrix, which a pass through this one takes."""
        return self.base.weight.numel()

    def forward(self, hidden_states: Tensor) -> Tensor:
        """``[..., in]`` to ``[..., out]``."""
        if self.base.weight.device.type == "meta":
            raise ArchitectureError(
                "shared blocks compute with each other's weights, so they cannot be streamed; give"
                " --weights resident"
            )
        if self.scale is None:
            return functional.linear(hidden_states, self.base.weight, self.base.bias)
        adapted = functional.linear(functional.linear(hidden_states, self.down), self.up)
        found: Tensor = self.scale * (functional.linear(hidden_states, self.base.weight) + adapted)
        return found if self.bias is None else found + self.bias

    @torch.no_grad()
    def expanded(self) -> nn.Linear:
        """Return an ordinary layer that computes the same, up to rounding."""
        if self.scale is None:
            return copy.deepcopy(self.base)
        base, dtype = self.base.weight, self.scale.dtype
        matrix = self.scale.double()[:, None] * (
            base.double() + self.up.double() @ self.down.double()
        )
        rows, columns = base.shape
        plain = nn.Linear(columns, rows, bias=self.bias is not None, device="meta")
        plain.weight = nn.Parameter(matrix.to(dtype), False)
        if self.bias is not None:
            plain.bias = nn.Parameter(self.bias.detach().clone(), False)
        return plain


def _empty(like: nn.Linear, *shape: int) -> nn.Parameter:
    return nn.Parameter(like.weight.new_empty(shape), requires_grad=False)


class SharedForCausalLM(WrappedForCausalLM):
    """A causal model some of whose blocks compute with other blocks' weights.

    Attributes:
        blocks_share_weights: No block can be taken out: another may compute with it.
    """

    config_class = SharedConfig
    blocks_share_weights = True

    def rebuild(self, config: SharedConfig) -> None:
        """Let blocks share weights."""
        share(self.inner, {int(i): source for i, source in config.sources.items()}, config.rank)


def linear_layers(block: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Yield the linear layers of a block with their names."""
    for name, module in block.named_modules():
        if isinstance(module, nn.Linear):
            yield name, module


def linear_shapes(block: nn.Module) -> dict[str, torch.Size]:
    """Return the shape of each linear layer's matrix; equal ones can be shared."""
    return {name: layer.weight.shape for name, layer in linear_layers(block)}


def share(inner: PreTrainedModel, sources: Mapping[int, int], rank: int) -> None:
    """Let blocks compute with other blocks' matrices; adapters' values are arbitrary afterwards.

    Args:
        inner: A family's causal model; changed in place.
        sources: By the number of a block, the number of the one whose weights it shares.
        rank: Rank of the adapters.
    """
    blocks = find_blocks(inner).blocks
    for index, source in sources.items():
        for name, base in list(linear_layers(blocks[source])):
            blocks[index].set_submodule(name, SharedLinear(base, rank))


def expand(inner: PreTrainedModel) -> None:
    """Write every shared matrix out, in place, so that the model is the family's own again."""
    for block in find_blocks(inner).blocks:
        for name, module in list(block.named_modules()):
            if isinstance(module, SharedLinear):
                block.set_submodule(name, module.expanded())


def finished(
    model: Model, sources: Mapping[int, int], rank: int, stored: Literal["compact", "expanded"]
) -> tuple[Model, dict[str, Any]]:
    """Give a model whose blocks share weights the form that is stored, and say what shares what.

    Args:
        model: Its module is used up.
        sources: By the place of a block that shares, the place of its source.
        rank: Rank of the adapters.
        stored: ``expanded`` writes all matrices out.

    Returns:
        The model, and a record with numbers of the dense model: shared, needs.
    """
    shared = {str(model.kept[place]): model.kept[source] for place, source in sources.items()}
    if stored == "expanded":
        expand(model.module)
        return model, {"shared": shared, "needs": None}
    named = {str(place): source for place, source in sources.items()}
    config = SharedConfig(dense_config(model), named, rank, dtype=model.dtype)
    return wrapped(model, config, SharedForCausalLM), {"shared": shared, "needs": NEEDS}


AutoConfig.register(SharedConfig.model_type, SharedConfig, exist_ok=True)
AutoModelForCausalLM.register(SharedConfig, SharedForCausalLM, exist_ok=True)
