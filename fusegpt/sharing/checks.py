"""Which models have blocks that can compute with another block's matrices."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from fusegpt.errors import ArchitectureError
from fusegpt.models.model import Model
from fusegpt.models.wrapped import dense_config
from fusegpt.sharing.modeling import linear_layers

__all__ = ["check_shared"]


def check_shared(model: Model, batch: Tensor, stored: Literal["compact", "expanded"]) -> None:
    """Refuse a model whose blocks cannot share weights, or not in the form that is wanted.

    Args:
        model: Unchanged.
        batch: Token ids ``[batch, seq]``; the first sequence runs through the model once.
        stored: ``compact`` wraps what ``AutoModelForCausalLM`` builds: no image-text model.

    Raises:
        ArchitectureError: It is one.
    """
    if stored == "compact" and _built(model) is not type(model.module):
        raise ArchitectureError(
            f"{type(model.module).__name__}: compact checkpoints hold what AutoModelForCausalLM"
            " builds, which it does not; give --set width.stored=expanded"
        )
    _check_layers(model, batch)


def _built(model: Model) -> type | None:
    try:
        with torch.device("meta"):
            return type(AutoModelForCausalLM.from_config(dense_config(model)))
    except ValueError:  # it knows no such config
        return None


@torch.no_grad()
def _check_layers(model: Model, batch: Tensor) -> None:
    """Refuse a model some of whose matrices are in no linear layer that the blocks call.

    Experts in one tensor would stay with each block, and little would be shared; a layer whose
    matrix is read past its call, or that the text never reaches, cannot stand for another one.
    """
    layers = {index: dict(linear_layers(model.block(index))) for index in model.kept}
    for index, own in layers.items():
        for name in model.matrices(index):
            if name.removesuffix(".weight") not in own:
                _refuse(model, f"{name} of block {index} is in no linear layer")
    called: set[nn.Module] = set()

    def note(module: nn.Module, args: Any, output: Any) -> None:
        called.add(module)

    handles = [
        layer.register_forward_hook(note) for own in layers.values() for layer in own.values()
    ]
    try:
        model.module(**model.inputs(batch[:1]), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    for index, own in layers.items():
        for name, layer in own.items():
            if layer not in called:
                _refuse(model, f"{name} of block {index} is never called with this text")


def _refuse(model: Model, why: str) -> None:
    raise ArchitectureError(f"{type(model.module).__name__}: {why}; blocks cannot share weights")
