"""One request, timed: prefill and greedy decoding; what it costs by counting; its memory."""

from __future__ import annotations

import gc
import inspect
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fusegpt.errors import ArtifactError
from fusegpt.models.checkpoints.load import load
from fusegpt.models.flops import forward_flops
from fusegpt.models.model import Model
from fusegpt.runtime import Timer, generator, machine_peak_gib, reset_peak_memory

__all__ = [
    "cache_bytes",
    "decode_bytes",
    "peak_in_child",
    "peak_of_request",
    "prefill_flops",
    "prompt_ids",
    "request",
    "tensor_bytes",
]


def prompt_ids(model: Model, batch: int, length: int) -> Tensor:
    """Random token ids ``[batch, length]``, equal for equal vocabularies."""
    vocabulary = model.text_config.vocab_size
    return torch.randint(vocabulary, (batch, length), generator=generator("speed", batch, length))


@torch.no_grad()
def request(model: Model, ids: Tensor, new_tokens: int) -> tuple[float, float]:
    """Seconds of reading the prompt, and of decoding ``new_tokens`` more, greedily.

    The head works on the last position only, as in generation, where the model allows it.
    """
    ids = ids.to(model.device)
    with Timer(model.device) as prefill:
        token, cache = _forward(model, ids, None)
    with Timer(model.device) as decode:
        for _ in range(new_tokens):
            token, cache = _forward(model, token, cache)
    return prefill.seconds, decode.seconds


@torch.no_grad()
def cache_bytes(model: Model, length: int) -> float:
    """Bytes of the key-value cache per token, at a context of ``length``."""
    _, cache = _forward(model, prompt_ids(model, 1, length).to(model.device), None)
    return _tensors_bytes(cache, set()) / length


def tensor_bytes(model: Model) -> int:
    """Bytes of the weights, tied ones once; a safetensors file adds a header to that."""
    return sum(weight.numel() * weight.element_size() for weight in model.module.parameters())


def prefill_flops(model: Model, length: int) -> float:
    """FLOPs of reading one prompt, by the rule of `fusegpt.work`; the head works on one position.

    Where a model's forward pass cannot leave the other positions out, it works on all.
    """
    positions = 1 if _keeps_one(model) else length
    return forward_flops(model, model.kept, length, length) + 2.0 * _head(model) * positions


def decode_bytes(model: Model, batch: int, context: int, cached: float) -> float:
    """Bytes read per decoding step: all blocks, the head, and each sequence's cache."""
    size = next(model.module.parameters()).element_size()
    weights = sum(p.numel() for block in model.blocks for p in block.parameters())
    return float((weights + _head(model)) * size + batch * context * cached)


def peak_of_request(model: Model, batch: int, length: int, new_tokens: int) -> float:
    """Peak GiB of one request: of the GPU without what others hold there, else of this process."""
    ids = prompt_ids(model, batch, length)
    if model.device.type == "cuda":
        others = torch.cuda.memory_allocated(model.device) - tensor_bytes(model)
        torch.cuda.reset_peak_memory_stats(model.device)
        request(model, ids, new_tokens)
        return (torch.cuda.max_memory_allocated(model.device) - others) / 2**30
    gc.collect()
    reset_peak_memory()
    request(model, ids, new_tokens)
    return machine_peak_gib()


def peak_in_child(path: Path, dtype: str, batch: int, length: int, new_tokens: int) -> float:
    """Peak GiB of one request in a process of its own, which holds nothing but this model.

    Raises:
        ArtifactError: The process failed.
    """
    arguments = json.dumps([str(path), dtype, batch, length, new_tokens])
    code = f"import {__name__} as m; m._child({arguments!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        raise ArtifactError(f"{path}: measuring its memory failed ({reason})")
    return float(done.stdout.split()[-1])


def _child(arguments: str) -> None:
    path, dtype, batch, length, new_tokens = json.loads(arguments)
    peak = peak_of_request(load(Path(path), dtype=dtype), batch, length, new_tokens)
    sys.stdout.write(f"{peak}\n")


def _forward(model: Model, ids: Tensor, cache: Any) -> tuple[Tensor, Any]:
    one = {"logits_to_keep": 1} if _keeps_one(model) else {}
    out = model.module(input_ids=ids, past_key_values=cache, use_cache=True, **one)
    return out.logits[:, -1:].argmax(dim=-1), out.past_key_values  # [batch, 1]


def _keeps_one(model: Model) -> bool:
    return "logits_to_keep" in inspect.signature(model.module.forward).parameters


def _head(model: Model) -> int:
    head = model.module.get_output_embeddings()
    return int(head.weight.numel())


def _tensors_bytes(value: Any, seen: set[int]) -> int:
    """Bytes of every tensor that an object holds, at any depth."""
    if id(value) in seen:
        return 0
    seen.add(id(value))
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(_tensors_bytes(item, seen) for item in value.values())
    if isinstance(value, list | tuple):
        return sum(_tensors_bytes(item, seen) for item in value)
    return _tensors_bytes(vars(value), seen) if hasattr(value, "__dict__") else 0
