"""Weights of 8 or 4 bits in a directory that transformers and vLLM load by compressed-tensors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Linear

from fusegpt.artifacts import read_json
from fusegpt.data.directories import weight_files
from fusegpt.errors import ArtifactError, ConfigError
from fusegpt.exports.gptq import gptq
from fusegpt.exports.reading import LARGEST, mean_nats
from fusegpt.exports.targets import ExportTarget
from fusegpt.models.checkpoints.directory import load_structure
from fusegpt.models.stored import Stored, stored_in
from fusegpt.results import layout

__all__ = ["PACKAGE", "quantise", "write_quantised"]

PACKAGE = "compressed-tensors"

GROUPS = (128, 64, 32)
"""Values that share a scale where codes have 4 bits: the largest that divides every row."""
SHRINK = [1 - step / 40 for step in range(17)]
"""Parts of a group's largest value that may be its largest code; the least error wins."""
OWN = {*layout.RECORDS, layout.CARD, layout.CONFIG, "model.safetensors.index.json"}


def quantise(weight: Tensor, bits: int, group: int) -> tuple[Tensor, Tensor]:
    """Round a matrix to integers, with a scale for each group of values of a row.

    Args:
        weight: ``[out, in]``.
        bits: Bits of a code; codes are symmetric around 0.
        group: Values that share a scale.

    Returns:
        Codes ``[out, in]`` int8, and scales ``[out, in / group]`` in the weight's dtype.
    """
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    values = weight.float().unflatten(1, (-1, group))  # [out, groups, group]
    largest = values.abs().amax(dim=2, keepdim=True)  # [out, groups, 1]
    error = torch.full_like(largest, torch.inf)
    codes, scales = torch.zeros_like(values), torch.ones_like(largest)
    for part in SHRINK if bits < 8 else (1.0,):
        scale = (largest * part / ((high - low) / 2)).to(weight.dtype).float()
        scale = scale.clamp(min=torch.finfo(torch.float16).tiny)
        rounded = (values / scale).round().clamp(low, high)
        left = (rounded * scale - values).square().sum(dim=2, keepdim=True)
        better = left < error
        error, scales = torch.where(better, left, error), torch.where(better, scale, scales)
        codes = torch.where(better, rounded, codes)
    return codes.flatten(1).to(torch.int8), scales.squeeze(2).to(weight.dtype)


def write_quantised(
    checkpoint: Path, target: ExportTarget, directory: Path, windows: Tensor | None = None
) -> dict[str, Any]:
    """Write a transformers directory again, the matrices of its blocks in few bits.

    Embeddings, head and norms stay as they are. ``int8`` and ``int4`` round to the nearest and read
    no data, ``gptq4`` rounds by what windows make of each matrix.

    Args:
        checkpoint: A directory that transformers loads.
        target: ``int8``, ``int4`` or ``gptq4``.
        directory: Where to write; it exists.
        windows: Token ids that ``gptq4`` reads, ``[windows, length]``.

    Returns:
        What was seen: mean nats per token of a short text, before and after.

    Raises:
        ConfigError: No matrix of a block can be quantised, or llm-compressor is missing.
        ArtifactError: What was written does not load as the same model.
    """
    bits, places = target.bits, stored_in(weight_files(checkpoint))
    matrices, others = _linear_modules(checkpoint)
    chosen = {name for name in matrices if f"{name}.weight" in places}
    group = _group(bits, {places[f"{name}.weight"].shape[1] for name in chosen})
    if not chosen or group == 0:
        raise ConfigError(
            f"{checkpoint}: blocks must have matrices whose rows are multiples of {GROUPS[-1]}"
            f" values to have {bits} bits, got none; export to gguf"
        )
    ignored = sorted({*others, *(matrices - chosen)})
    found: dict[str, Tensor] = {}
    if target.is_calibrated:
        assert windows is not None and group is not None, target
        found = gptq(checkpoint, windows, bits, group, ignored)
    tensors = _quantised(places, chosen, bits, group, found)
    for file in checkpoint.iterdir():
        if file.is_file() and file.suffix != ".safetensors" and file.name not in OWN:
            shutil.copyfile(file, directory / file.name)
    config = read_json(checkpoint / layout.CONFIG)
    config["quantization_config"] = _description(bits, group, ignored)
    (directory / layout.CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    del tensors, found  # before whole models are loaded to be compared
    seen = {"nats": mean_nats(checkpoint), "quantised_nats": mean_nats(directory)}
    gap = seen["quantised_nats"] - seen["nats"]
    if not (gap <= LARGEST if bits == 8 else gap < float("inf")):
        raise ArtifactError(f"{checkpoint}: must stay the same model, got {gap:.2f} nats more")
    return {name: round(value, 6) for name, value in seen.items()} | {"group": group or "row"}


def _quantised(
    places: Mapping[str, Stored],
    chosen: Set[str],
    bits: int,
    group: int | None,
    found: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """The tensors of the new file; what was found for the chosen modules is taken, if anything."""
    from compressed_tensors.compressors import pack_to_int32

    tensors: dict[str, Tensor] = {}
    for name, place in places.items():
        module, weight = name.removesuffix(".weight"), place.read()
        if module not in chosen:
            tensors[name] = weight
            continue
        packed, scale = f"{module}.weight_packed", f"{module}.weight_scale"
        if found:
            tensors[packed], tensors[scale] = found[packed], found[scale].to(weight.dtype)
        else:
            codes, tensors[scale] = quantise(weight, bits, group or weight.shape[1])
            tensors[packed] = pack_to_int32(codes, bits)
        tensors[f"{module}.weight_shape"] = torch.tensor(weight.shape)
    return tensors


def _linear_modules(checkpoint: Path) -> tuple[set[str], set[str]]:
    """Names of the linear modules inside of blocks, and of all others."""
    model = load_structure(checkpoint)
    inside = {module for block in model.blocks for module in block.modules()}
    linear = {name: x for name, x in model.module.named_modules() if isinstance(x, Linear)}
    within = {name for name, module in linear.items() if module in inside}
    return within, linear.keys() - within


def _group(bits: int, rows: set[int]) -> int | None:
    """How many values share a scale; None: all of a row; 0: no number divides every row."""
    if bits == 8:
        return None
    return next((size for size in GROUPS if all(row % size == 0 for row in rows)), 0)


def _description(bits: int, group: int | None, ignored: list[str]) -> dict[str, Any]:
    """What ``config.json`` says of it, in the words of compressed-tensors."""
    weights = {"num_bits": bits, "type": "int", "symmetric": True, "dynamic": False}
    weights |= {"strategy": "channel" if group is None else "group", "group_size": group}
    return {
        "quant_method": PACKAGE,
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": ignored,
    }
