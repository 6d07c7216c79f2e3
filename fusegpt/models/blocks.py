"""Finding the decoder's block list in any causal or image-text model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from fusegpt.errors import ArchitectureError
from fusegpt.models.weights import owner_of

__all__ = ["BlockList", "decoder_of", "find_blocks", "text_config"]


@dataclass(frozen=True)
class BlockList:
    """Where the decoder's blocks hang.

    Attributes:
        owner: The module that runs the blocks one after the other.
        name: The list's dotted name below ``owner``.
        blocks: The list itself, in order of execution.
    """

    owner: nn.Module
    name: str
    blocks: nn.ModuleList


def text_config(module: PreTrainedModel) -> PretrainedConfig:
    """The config of the part that reads and writes text; the model's own when there is but one."""
    return module.config.get_text_config(decoder=True)


def decoder_of(module: PreTrainedModel) -> nn.Module:
    """The part that reads and writes text, without its head."""
    decoder = module.get_decoder()
    # transformers goes by attribute names, and some models call their output layer "decoder"
    found: nn.Module = decoder if isinstance(decoder, PreTrainedModel) else module.base_model
    return found


def find_blocks(module: PreTrainedModel) -> BlockList:
    """Find the shallowest module list below the decoder that is as long as the config says.

    Only the decoder is searched, so that a vision tower of equal depth is never taken. Lists of
    the same depth (some models keep small per-block side lists) are told apart by their weight.

    Raises:
        ArchitectureError: There is no such list, or the config states no number of blocks.
    """
    count, decoder = _count(module), decoder_of(module)
    found: list[tuple[int, int, str, nn.ModuleList]] = []
    for name, child in decoder.named_modules():
        if not isinstance(child, nn.ModuleList) or len(child) != count:
            continue
        weight = sum(p.numel() for p in child.parameters())
        if weight:
            found.append((name.count("."), -weight, name, child))
    if not found:
        raise ArchitectureError(
            f"{type(module).__name__}: no list of {count} blocks below its decoder "
            f"({type(decoder).__name__}); only decoders that keep their blocks in one list "
            "can be pruned"
        )
    _, _, name, blocks = min(found, key=lambda entry: entry[:2])
    return BlockList(*owner_of(decoder, name), blocks)


def _count(module: PreTrainedModel) -> int:
    count = getattr(text_config(module), "num_hidden_layers", None)
    if not isinstance(count, int) or count < 1:
        raise ArchitectureError(
            f"{type(module).__name__}: its text config must state num_hidden_layers, got {count!r}"
        )
    return count
