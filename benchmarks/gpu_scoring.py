"""Scoring against both published loops, and of a model that is read block by block."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from gpu_arms import Sizes, config_of, in_turn, peak_gib, ratio
from step import plain
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM

from fusegpt.config import Weights
from fusegpt.importance.losses import sequence_loss
from fusegpt.importance.macro_influence import macro_influence
from fusegpt.importance.sleb import sleb
from fusegpt.models.checkpoints.load import load
from fusegpt.models.flops import forward_flops, head_flops
from fusegpt.models.model import Model
from fusegpt.models.stored import write_tensors
from fusegpt.models.structure.replay import record
from fusegpt.models.surgery.removal import skip
from fusegpt.runtime import Timer, dtype_name
from fusegpt.units import Unit


@torch.no_grad()
def published_scores(model: Model, windows: Sequence[Tensor], units: Sequence[Unit]) -> Tensor:
    """``plain`` in the form of its code: inputs and outputs copied, memory emptied per block."""
    total = torch.zeros(len(units), dtype=torch.float64)
    for batch in windows:
        seen = record(model, batch)
        for place in range(len(units)):
            hidden = copy.deepcopy(seen.hidden_in)
            for number, (block, call) in enumerate(zip(model.blocks, seen.calls, strict=True)):
                if number != place:
                    outs = torch.zeros_like(hidden)
                    outs.copy_(call.run(block, hidden))
                    hidden = outs
                    if hidden.is_cuda:
                        torch.cuda.empty_cache()
            total[place] += _cosines(hidden, seen.hidden_out)
    return 1 - total / sum(batch.numel() for batch in windows)


def _cosines(one: Tensor, other: Tensor) -> Tensor:
    cosine = functional.cosine_similarity(one.float(), other.float(), dim=-1)
    return cosine.sum(dtype=torch.float64).cpu()


@torch.no_grad()
def sleb_scores(model: Model, windows: Sequence[Tensor], units: Sequence[Unit]) -> Tensor:
    """SLEB's loop: logits and loss of the whole model for every block that is left out."""
    total = torch.zeros(len(units), dtype=torch.float64)
    for place, unit in enumerate(units):
        with skip(model, [unit]):
            for batch in windows:
                logits = model.module(input_ids=batch, use_cache=False).logits
                total[place] += sequence_loss(logits, batch).double().cpu()
    return total / len(windows)


def scoring(model: Model, sizes: Sizes, device: torch.device, until: float) -> dict[str, Any]:
    """All candidates by a shared prefix against FuseGPT's and SLEB's loops."""
    length, units = sizes["length"], model.units()
    ids = torch.randint(sizes["vocab"], (sizes["score"], length)).to(device)
    windows = list(ids.split(1))
    arms = {
        "plain": lambda: plain(model, windows, units),
        "published": lambda: published_scores(model, windows, units),
        "sleb_style": lambda: sleb_scores(model, windows, units),
        "shared": lambda: macro_influence(model, windows, units),
    }
    seconds, scores = in_turn(arms, device, sizes["rounds"], until)
    count, tokens = len(units), ids.numel()
    block = forward_flops(model, [0], tokens, length)
    ours = count * (count + 1) / 2 * block
    with_head = count * ((count - 1) * block + head_flops(model, tokens))
    losses = scores["sleb_style"] - sleb(model, windows, units)
    return {
        "seconds": seconds,
        **ratio(seconds["plain"], seconds["shared"], 2 * count / (count + 1)),
        "published_over_shared": ratio(seconds["published"], seconds["shared"], None),
        "sleb_style_over_shared": ratio(seconds["sleb_style"], seconds["shared"], None),
        "sleb_style_by_counting": with_head / ours,
        "tflops_per_second": ours / statistics.median(seconds["shared"]) / 1e12,
        "largest_difference": (scores["plain"] - scores["shared"]).abs().max().item(),
        "published_difference": (scores["published"] - scores["shared"]).abs().max().item(),
        "sleb_difference": losses.abs().max().item(),
    }


def streamed(
    sizes: Sizes, device: torch.device, dtype: torch.dtype, until: float
) -> dict[str, Any]:
    """Scoring of a model whose blocks are read one by one, once, where that ends before ``until``.

    Every block of it is the same place of one file, so that the disk holds one block: after the
    first time its bytes come from the system's cache and not from the disk, but each is read,
    copied into memory of its own and copied to the device as often as if all blocks were others.
    """
    with TemporaryDirectory() as name:
        folder = _one_block(Path(name), sizes, device, dtype)
        model = _repeated(folder, sizes, "streamed", device, dtype)
        assert model.streamed is not None
        ids = torch.randint(sizes["vocab"], (sizes["streamed"], sizes["length"])).to(device)
        windows, scores = list(ids.split(1)), []
        with model.present(0):
            one = _seconds_of_a_block(model, windows[0], device)
        with Timer(device) as reading, model.present(1):
            pass
        count = model.num_blocks
        computing = one * len(windows) * count * (count + 1) / 2
        found = {"seconds_of_blocks_alone": computing, "seconds_to_read_a_block": reading.seconds}
        if time.monotonic() + computing + count * reading.seconds > until:
            return found | {"seconds": "not measured: no time left"}
        before, units = model.streamed.bytes_read, model.units()
        with Timer(device) as timer:
            peak = peak_gib(device, lambda: scores.append(macro_influence(model, windows, units)))
        read = model.streamed.bytes_read - before
    size = sum(p.nbytes for block in model.blocks for p in block.parameters())
    outside = sum(p.nbytes for p in model.module.parameters()) - size
    return found | {
        "seconds": timer.seconds,
        "rate_of_resident": computing / timer.seconds,
        "gib_read": read / 2**30,
        "models_read": read / size,
        "models_read_by_candidate": count * len(windows),
        "peak_gib": None if peak is None else peak + outside / 2**30,
        "finite": bool(scores[0].isfinite().all()),
    }


def streamed_equality(sizes: Sizes, device: torch.device) -> float:
    """The largest difference of scores, streamed and resident, of a tiny model."""
    ids = torch.randint(sizes["vocab"], (4, 16), generator=torch.Generator().manual_seed(0))
    windows, scores = list(ids.to(device).split(1)), []
    ways: tuple[Weights, Weights] = ("resident", "streamed")
    with TemporaryDirectory() as name:
        folder = _one_block(Path(name), sizes, device, torch.float32)
        for weights in ways:
            model = _repeated(folder, sizes, weights, device, torch.float32)
            scores.append(macro_influence(model, windows, model.units()))
    return float((scores[0] - scores[1]).abs().max())


def _one_block(folder: Path, sizes: Sizes, device: torch.device, dtype: torch.dtype) -> Path:
    """Write a random Llama of one block."""
    config = config_of(sizes, 1)
    with torch.device("meta"):
        kinds = {n: (dtype, t.shape) for n, t in LlamaForCausalLM(config).state_dict().items()}
    torch.manual_seed(0)

    def value(name: str) -> Tensor:
        values = torch.randn(kinds[name][1], device=device, dtype=dtype) * 0.02
        return (values if values.dim() > 1 else torch.ones_like(values)).cpu()

    write_tensors(folder / "model.safetensors", kinds, value, {"format": "pt"})
    config.dtype = dtype_name(dtype)
    config.save_pretrained(folder)
    return folder


def _repeated(
    folder: Path, sizes: Sizes, weights: Weights, device: torch.device, dtype: torch.dtype
) -> Model:
    """Load a Llama of one block with that block as often as there should be blocks."""
    first = load(folder, dtype=dtype, device=device, weights=weights)
    module, block = first.module, first.block(0)
    for index in range(1, sizes["blocks"]):
        another = copy.deepcopy(block)
        another.self_attn.layer_idx = index
        if first.streamed is not None:
            for old, new in zip(block.modules(), another.modules(), strict=True):
                if old in first.streamed.places:
                    first.streamed.places[new] = first.streamed.places[old]
        first.block_list.append(another)
    module.config.num_hidden_layers = sizes["blocks"]
    model = Model.dense(module)
    model.streamed = first.streamed
    return model


@torch.no_grad()
def _seconds_of_a_block(model: Model, batch: Tensor, device: torch.device) -> float:
    """One window through one block whose weights are there: the median of five times eight."""
    seen = record(model, batch, 0, 0)
    block, found = model.block(0), []
    for _ in range(6):
        with Timer(device) as timer:
            for _ in range(8):
                seen.calls[0].run(block, seen.hidden_in)
        found.append(timer.seconds / 8)
    return statistics.median(found[1:])
