"""Low-rank updates beside every linear layer of a model's blocks, by PEFT, while they train."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from fusegpt.errors import ArchitectureError, first_line
from fusegpt.models.model import Model
from fusegpt.runtime import generator

__all__ = ["Trained", "trained_updates"]


@dataclass
class Trained:
    """Parameters in training.

    Attributes:
        parameters: What the optimiser moves; float32, or as wide as the model.
        blocks: Dense indices of the blocks that they belong to, ascending.
        form: Brings the model's weights up to date with them.
        undo: Whether the model is to become what it was, as it does after an error; set before the
            end.
    """

    parameters: list[nn.Parameter]
    blocks: list[int]
    form: Callable[[], None] = lambda: None
    undo: bool = True


@contextmanager
def trained_updates(model: Model, rank: int, alpha: float, seed: int) -> Iterator[Trained]:
    """Inside, low-rank updates receive gradients; afterwards the model is plain and frozen.

    Args:
        model: Its modules are wrapped in place; ends with the updates merged, or with ``undo`` as
            it was.
        rank: Rank of each update.
        alpha: Each update is multiplied by this number over the rank.
        seed: The factors start from it alone.

    Raises:
        ArchitectureError: PEFT wraps no such layers; the model is of no use afterwards.
    """
    adapted = _adapted(model, rank, alpha, seed)
    factors = [p for p in adapted.parameters() if p.requires_grad]
    found = Trained(factors, list(model.kept))
    try:
        yield found
    finally:
        adapted.unload() if found.undo else adapted.merge_and_unload()
        model.module.requires_grad_(False)


def _adapted(model: Model, rank: int, alpha: float, seed: int) -> PeftModel:
    """Wrap every linear layer of the blocks."""
    blocks = {id(module) for block in model.blocks for module in block.modules()}
    linear = {
        name: module
        for name, module in model.module.named_modules()
        if id(module) in blocks and isinstance(module, (nn.Linear, Conv1D))
    }
    transposed = any(isinstance(module, Conv1D) for module in linear.values())
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=list(linear),
        fan_in_fan_out=transposed,
        bias="none",
    )
    drawn = [model.device] if model.device.type == "cuda" else []  # all GPUs would be started
    with torch.random.fork_rng(drawn), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice on layers that are tied or of mixed kinds
        adapted = _wrapped(model, config)
    for name, parameter in adapted.named_parameters():
        if "lora_A" in name:
            bound = 1 / math.sqrt(parameter.shape[1])
            start = torch.empty(parameter.shape, dtype=torch.float32)
            start.uniform_(-bound, bound, generator=generator(seed, name))
            parameter.data.copy_(start)
    adapted.eval()
    return adapted


def _wrapped(model: Model, config: LoraConfig) -> PeftModel:
    try:
        return get_peft_model(model.module, config)
    except ValueError as error:  # it reads some layers' weights past the layers, as Mamba's kernels
        raise ArchitectureError(
            f"{type(model.module).__name__}: low-rank updates (lora) must fit beside every linear"
            f" layer of the blocks, but {first_line(error)}; train weights themselves"
        ) from error
