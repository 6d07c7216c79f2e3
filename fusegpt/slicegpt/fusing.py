"""A dense model with plain norms: scales and mean subtraction move into the maps beside them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from fusegpt.slicegpt.families import Family, family_of
from fusegpt.slicegpt.modeling import prepare, set_weight

__all__ = ["fuse_norms", "has_means"]


def fuse_norms(inner: PreTrainedModel) -> Family:
    """Fuse every norm into its neighbours, in float64, so that each becomes a plain RMSNorm.

    A norm's scale and bias go into the maps that read it. A LayerNorm's mean subtraction goes
    into whatever writes the residual stream, which then has mean zero. The head is untied.
    SliceGPT, Section 3.2 and Figure 3; logits change by rounding only.

    Args:
        inner: Dense, of a family in the table; changed in place, its blocks get no shortcuts yet.

    Returns:
        The names of its modules.
    """
    family = family_of(inner.config.to_dict())
    decoder = inner.get_submodule(family.decoder)
    centred = has_means(inner, family)
    head = inner.get_output_embeddings()
    set_weight(head, head.weight.detach().clone())
    inner.config.tie_word_embeddings = False
    _into_readers(getattr(decoder, family.final_norm), [head])
    for block in decoder.layers:
        for norm, readers in _norms(family, block):
            _into_readers(norm, readers)
        for name in (family.attention_writer, family.mlp_writer) if centred else ():
            writer = block.get_submodule(name)
            bias = None if writer.bias is None else _centred(writer.bias, 0)
            set_weight(writer, _centred(writer.weight, 0), bias)
    for name in family.embeddings if centred else ():
        embedding = decoder.get_submodule(name)
        set_weight(embedding, _centred(embedding.weight, 1))
    prepare(inner)
    return family


def has_means(inner: PreTrainedModel, family: Family) -> bool:
    """Whether the family's norms subtract the mean."""
    norm = getattr(inner.get_submodule(family.decoder), family.final_norm)
    return isinstance(norm, nn.LayerNorm)


def _norms(family: Family, block: Any) -> Iterator[tuple[Any, list[Any]]]:
    """Each norm of a block with the maps that read it."""
    attention = [block.get_submodule(name) for name in family.attention_readers]
    mlp = [block.get_submodule(name) for name in family.mlp_readers]
    if family.mlp_norm is None:
        yield getattr(block, family.attention_norm), [*attention, *mlp]
    else:
        yield getattr(block, family.attention_norm), attention
        yield getattr(block, family.mlp_norm), mlp


def _into_readers(norm: Any, readers: list[Any]) -> None:
    """``W (s ⊙ z + b) + c`` is ``(W diag(s)) z + (W b + c)``."""
    if norm.weight is None:
        return
    for reader in readers:
        weight = reader.weight.double()
        bias = reader.bias
        if getattr(norm, "bias", None) is not None:
            added = weight @ norm.bias.double()
            bias = added if bias is None else bias.double() + added
        bias = None if bias is None else bias.detach().to(reader.weight.dtype)
        fused = (weight * norm.weight.double()).to(reader.weight.dtype)
        set_weight(reader, fused.detach(), bias)


def _centred(values: Tensor, axis: int) -> Tensor:
    wide = values.detach().double()
    return (wide - wide.mean(axis, keepdim=True)).to(values.dtype)
