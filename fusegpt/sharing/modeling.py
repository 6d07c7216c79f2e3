"""The model class of compact checkpoints. Importing this module lets the auto classes load them.

A shared block is the family's own block whose linear layers compute with those of another block:
``scale · (W + up · down) · x + bias``, where W belongs to the other block and is stored there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationMixin,
    PretrainedConfig,
    PreTrainedModel,
)

from fusegpt.errors import ArchitectureError
from fusegpt.models.blocks import find_blocks

__all__ = ["SharedConfig", "SharedForCausalLM", "SharedLinear", "expand", "linear_layers", "share"]


class SharedConfig(PretrainedConfig):
    """The configuration of a model whose blocks share weights.

    Attributes:
        text_config: The dense model's config.
        sources: By the number of a shared block, as text, the number of the block whose weights it
            computes with.
        rank: Rank of the adapters.
    """

    model_type = "fusegpt_shared"
    sub_configs = {"text_config": AutoConfig}  # noqa: RUF012

    def __init__(
        self,
        text_config: Any = None,
        sources: Mapping[str, int] | None = None,
        rank: int = 1,
        **kwargs: Any,
    ) -> None:
        """Complete what is not given: nothing is shared."""
        if text_config is None:
            text_config = AutoConfig.for_model("llama")
        if isinstance(text_config, Mapping):
            text_config = AutoConfig.for_model(**text_config)
        self.text_config = text_config
        self.sources = dict(sources or {})
        self.rank = rank
        tied = getattr(text_config, "tie_word_embeddings", False)
        super().__init__(**{"tie_word_embeddings": tied, **kwargs})


class SharedLinear(nn.Module):
    """A linear layer that computes with another one's matrix, adapted and rescaled.

    Args:
        base: The other layer. It is no part of this one, so that its matrix is stored once.
        rank: Rank of the adapter, cut to what the matrix can have.
    """

    base: nn.Linear

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.__dict__["base"] = base
        rows, columns = base.weight.shape
        rank = min(rank, rows, columns)
        self.down = _empty(base, rank, columns)
        self.up = _empty(base, rows, rank)
        self.scale = _empty(base, rows)
        self.bias = None if base.bias is None else _empty(base, rows)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """``[..., in]`` to ``[..., out]``."""
        if self.base.weight.device.type == "meta":
            raise ArchitectureError(
                "shared blocks compute with each other's weights, so they cannot be streamed; give"
                " --weights resident"
            )
        adapted = functional.linear(functional.linear(hidden_states, self.down), self.up)
        found: Tensor = self.scale * (functional.linear(hidden_states, self.base.weight) + adapted)
        return found if self.bias is None else found + self.bias

    @torch.no_grad()
    def expanded(self) -> nn.Linear:
        """Return an ordinary layer that computes the same, up to rounding."""
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


class SharedForCausalLM(PreTrainedModel, GenerationMixin):
    """A causal model some of whose blocks compute with other blocks' weights.

    Attributes:
        blocks_share_weights: No block can be taken out: another may compute with it.
    """

    config_class = SharedConfig
    base_model_prefix = "inner"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    blocks_share_weights = True

    def __init__(self, config: SharedConfig) -> None:
        super().__init__(config)
        self.inner = AutoModelForCausalLM.from_config(config.text_config)
        share(self.inner, {int(i): source for i, source in config.sources.items()}, config.rank)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The token embeddings."""
        found: nn.Module = self.inner.get_input_embeddings()
        return found

    def get_output_embeddings(self) -> nn.Module:
        """The head."""
        found: nn.Module = self.inner.get_output_embeddings()
        return found

    def get_decoder(self, *args: Any, **kwargs: Any) -> nn.Module:
        """The part without the head."""
        found: nn.Module = self.inner.get_decoder()
        return found

    def forward(self, input_ids: Tensor | None = None, **kwargs: Any) -> Any:
        """As of the family's causal model."""
        return self.inner(input_ids=input_ids, **kwargs)


def linear_layers(block: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Yield the linear layers of a block with their names."""
    for name, module in block.named_modules():
        if isinstance(module, nn.Linear):
            yield name, module


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


AutoConfig.register(SharedConfig.model_type, SharedConfig, exist_ok=True)
AutoModelForCausalLM.register(SharedConfig, SharedForCausalLM, exist_ok=True)
