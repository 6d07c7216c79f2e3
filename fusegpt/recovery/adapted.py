"""Low-rank updates beside every linear layer of a model's blocks, by PEFT."""

from __future__ import annotations

import math
import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from fusegpt.errors import ArchitectureError, first_line
from fusegpt.models.model import Model
from fusegpt.runtime import generator

__all__ = ["adapted_model"]


def adapted_model(model: Model, rank: int, alpha: float, seed: int) -> PeftModel:
    """Wrap every linear layer of the blocks; the factors start from the seed alone.

    Args:
        model: Its modules are wrapped in place until ``unload`` or ``merge_and_unload``.
        rank: Rank of each update.
        alpha: Each update is multiplied by this number over the rank.
        seed: Seed of the factors.

    Raises:
        ArchitectureError: PEFT wraps no such layers; the model is of no use afterwards.
    """
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
