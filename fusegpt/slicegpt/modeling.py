"""The model class of sliced checkpoints. Importing this module lets the auto classes load them.

No forward pass of transformers is copied but the dozen lines of a block's own: attention, mlp,
masks, positions, cache and head are the family's modules with smaller matrices.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from fusegpt.models.wrapped import WrappedConfig, WrappedForCausalLM
from fusegpt.slicegpt.families import Family, family_of

__all__ = ["PlainNorm", "SlicedConfig", "SlicedForCausalLM", "narrow", "prepare"]


class SlicedConfig(WrappedConfig):
    """The configuration of a sliced model.

    Attributes:
        text_config: The dense model's config, with its hidden size, its head untied.
        width: Dimensions left of the hidden size.
        head_width: The same between the last block and the head.
    """

    model_type = "fusegpt_sliced"

    def __init__(
        self,
        text_config: Any = None,
        width: int | None = None,
        head_width: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Complete what is not given: no slicing."""
        super().__init__(text_config, **{"tie_word_embeddings": False, **kwargs})
        self.width = width or self.text_config.hidden_size
        self.head_width = head_width or self.text_config.hidden_size


class PlainNorm(nn.Module):
    """Root mean square normalisation without a scale, over the dense model's dimensions.

    What was sliced off counts as zero: the sum of squares is divided by the dense hidden size.
    """

    def __init__(self, hidden: int, eps: float) -> None:
        super().__init__()
        self.hidden, self.eps = hidden, eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        """``[..., width]`` to the same; sums in float32 at least."""
        wide = hidden_states.to(torch.promote_types(hidden_states.dtype, torch.float32))
        square = wide.square().sum(-1, keepdim=True) / self.hidden
        return (wide * torch.rsqrt(square + self.eps)).to(hidden_states.dtype)


class SlicedBlock(nn.Module):
    """A family's block whose residual paths change the basis (Section 3.3, Figure 4)."""

    family: Family
    attention_shortcut: nn.Module
    mlp_shortcut: nn.Module

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """``[batch, seq, width in]`` to ``[batch, seq, width out]``."""
        if self.family.mlp_norm is None:
            return self.side_by_side(hidden_states, **kwargs)
        return self.after_mlp(self.after_attention(hidden_states, **kwargs))

    def after_attention(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """The stream between attention and mlp."""
        normed = getattr(self, self.family.attention_norm)(hidden_states)
        attended, _ = getattr(self, self.family.attention)(hidden_states=normed, **kwargs)
        hidden: Tensor = self.attention_shortcut(hidden_states) + attended
        return hidden

    def after_mlp(self, hidden_states: Tensor) -> Tensor:
        """The stream after the mlp."""
        assert self.family.mlp_norm is not None
        normed = getattr(self, self.family.mlp_norm)(hidden_states)
        hidden: Tensor = self.mlp_shortcut(hidden_states) + self._mlp(normed)
        return hidden

    def side_by_side(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """The stream after a block whose attention and mlp read the same norm."""
        normed = getattr(self, self.family.attention_norm)(hidden_states)
        attended, _ = getattr(self, self.family.attention)(hidden_states=normed, **kwargs)
        hidden: Tensor = self.attention_shortcut(hidden_states) + attended + self._mlp(normed)
        return hidden

    def _mlp(self, normed: Tensor) -> Tensor:
        for name in self.family.mlp:
            normed = getattr(self, name)(normed)
        return normed


class SlicedForCausalLM(WrappedForCausalLM):
    """A causal model of a family with sliced matrices, plain norms and residual adapters.

    Attributes:
        blocks_change_basis: No block can be taken out: the next one reads what it writes.
    """

    config_class = SlicedConfig
    blocks_change_basis = True

    def rebuild(self, config: SlicedConfig) -> None:
        """Slice the family's model."""
        prepare(self.inner)
        narrow(self.inner, config.width, config.head_width)


def prepare(inner: PreTrainedModel) -> Family:
    """Give a family's model plain norms, the biases that these leave behind, and sliced blocks.

    Norms lose their weights: who wants them fused does so before. Shortcuts are added by
    ``narrow``.
    """
    family = family_of(inner.config.to_dict())
    decoder = inner.get_submodule(family.decoder)
    hidden = inner.config.hidden_size
    head = inner.get_output_embeddings()
    _replace(decoder, family.final_norm, [head], hidden)
    for block in decoder.layers:
        attention = [block.get_submodule(name) for name in family.attention_readers]
        mlp = [block.get_submodule(name) for name in family.mlp_readers]
        if family.mlp_norm is None:
            _replace(block, family.attention_norm, [*attention, *mlp], hidden)
        else:
            _replace(block, family.attention_norm, attention, hidden)
            _replace(block, family.mlp_norm, mlp, hidden)
        kind: Any = type(block)
        block.__class__ = _sliced_class(kind, inner.config.model_type)
    return family


def narrow(inner: PreTrainedModel, width: int, head_width: int) -> None:
    """Give every matrix of a prepared model its sliced shape; values are arbitrary afterwards."""
    family = family_of(inner.config.to_dict())
    decoder = inner.get_submodule(family.decoder)
    for name in family.embeddings:
        embedding = decoder.get_submodule(name)
        set_weight(embedding, embedding.weight.new_empty(len(embedding.weight), width))
    for number, block in enumerate(decoder.layers, 1):
        out = head_width if number == len(decoder.layers) else width
        middle = out if family.mlp_norm is None else width
        for name in (*family.attention_readers, *family.mlp_readers):
            linear = block.get_submodule(name)
            set_weight(linear, linear.weight.new_empty(linear.out_features, width))
        for name, size in ((family.attention_writer, middle), (family.mlp_writer, out)):
            linear = block.get_submodule(name)
            bias = None if linear.bias is None else linear.bias.new_empty(size)
            set_weight(linear, linear.weight.new_empty(size, linear.in_features), bias)
        like = block.get_submodule(family.mlp_writer).weight
        set_shortcut(block, "attention_shortcut", like.new_empty(middle, width))
        if family.mlp_norm is not None:
            set_shortcut(block, "mlp_shortcut", like.new_empty(out, width))
    head = inner.get_output_embeddings()
    set_weight(head, head.weight.new_empty(len(head.weight), head_width))


def set_weight(module: Any, weight: Tensor, bias: Tensor | None = None) -> None:
    """Put another matrix, and bias if given, into a linear map or an embedding; no gradients."""
    module.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        module.bias = nn.Parameter(bias, requires_grad=False)
    if isinstance(module, nn.Embedding):
        module.embedding_dim = weight.shape[1]
    else:
        module.out_features, module.in_features = weight.shape


def set_shortcut(block: nn.Module, name: str, weight: Tensor) -> None:
    """Set a residual path's change of basis, ``[width out, width in]``."""
    with torch.device("meta"):
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    set_weight(linear, weight)
    setattr(block, name, linear)


def _replace(owner: nn.Module, name: str, readers: list[nn.Module], hidden: int) -> None:
    norm = getattr(owner, name)
    eps = norm.eps if isinstance(norm, nn.LayerNorm) else norm.variance_epsilon
    if getattr(norm, "bias", None) is not None:
        for reader in readers:
            if reader.bias is None:
                zeros = reader.weight.new_zeros(len(reader.weight))
                reader.bias = nn.Parameter(zeros, requires_grad=False)
    setattr(owner, name, PlainNorm(hidden, eps))


@functools.cache
def _sliced_class(kind: Any, model_type: str) -> type:
    """The block's class with our forward; still the family's, which hooks of transformers ask."""
    family = family_of({"model_type": model_type})
    return type(f"Sliced{kind.__name__}", (SlicedBlock, kind), {"family": family})


AutoConfig.register(SlicedConfig.model_type, SlicedConfig, exist_ok=True)
AutoModelForCausalLM.register(SlicedConfig, SlicedForCausalLM, exist_ok=True)
