"""What removed attentions and mlps save: dense, cut, and the equal export full of zeros, in turn.

    python benchmarks/sublayers.py MODEL --output sublayers.json

A part of all attentions, then of all mlps, is taken out evenly over the depth (which ones go does
not change the speed), both checkpoints are written and read back, and requests are timed with every
arm in each round. Beside the tokens per second stand what counting says at best, bytes of cache per
token, parameters, bytes on disk, and the peak memory of a process that holds one model alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from fusegpt.evaluation import inference
from fusegpt.models.checkpoints.load import load
from fusegpt.models.checkpoints.save import save
from fusegpt.models.model import Model
from fusegpt.models.surgery.removal import remove
from fusegpt.pruning.budget import removals
from fusegpt.units import Kind, Unit

KINDS: tuple[Kind, ...] = ("attention", "mlp")


def arms_of(source: Path, sparsity: float, dtype: str, folder: Path) -> dict[str, Path]:
    """Write the checkpoints; name of each arm to its directory."""
    arms = {"dense": source}
    for kind in KINDS:
        model = load(source, dtype=dtype)
        count = removals(model.num_blocks, sparsity)
        first = model.num_blocks / count / 2
        gone = [int(first + place * model.num_blocks / count) for place in range(count)]
        remove(model, *(Unit(kind, index) for index in gone))
        for name, zeros in ((kind, False), (f"{kind}, zeros", True)):
            arms[f"without {count} {name}"] = folder / f"{kind}{'-zeros' if zeros else ''}"
            save(model, arms[f"without {count} {name}"], extra={}, zeros=zeros)
    return arms


@torch.no_grad()
def logits(model: Model) -> torch.Tensor:
    """The logits of a prompt that every arm gets."""
    return model.module(inference.prompt_ids(model, 1, 64).to(model.device)).logits


def measure(arms: dict[str, Path], options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Time every arm in each round, forth and back; count the rest."""
    models = {name: load(path, dtype=options.dtype) for name, path in arms.items()}
    for name, model in models.items():
        if f"{name}, zeros" in models:
            assert torch.equal(logits(model), logits(models[f"{name}, zeros"])), name
    ids = {n: inference.prompt_ids(m, options.batch, options.prompt) for n, m in models.items()}
    for name, model in models.items():
        inference.request(model, ids[name], 2)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for _ in range(options.rounds):
        for name in [*models, *reversed(models)]:
            spent = inference.request(models[name], ids[name], options.new_tokens)
            seconds[name].append(spent)
    return {n: row(n, models, seconds, arms[n], options) for n in models}


def row(
    name: str,
    models: dict[str, Model],
    seconds: dict[str, list[tuple[float, float]]],
    path: Path,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Everything about one arm."""
    model, dense = models[name], models["dense"]
    cached = {arm: inference.cache_bytes(models[arm], options.prompt) for arm in (name, "dense")}
    context = options.prompt + options.new_tokens // 2
    ideal = (
        inference.prefill_flops(dense, options.prompt)
        / inference.prefill_flops(model, options.prompt),
        inference.decode_bytes(dense, options.batch, context, cached["dense"])
        / inference.decode_bytes(model, options.batch, context, cached[name]),
    )
    found: dict[str, Any] = {}
    amounts = (options.batch * options.prompt, options.batch * options.new_tokens)
    for part, phase in enumerate(("prefill", "decode")):
        spent = [request[part] for request in seconds[name]]
        ratios = [d[part] / s for d, s in zip(seconds["dense"], spent, strict=True)]
        found[phase] = {
            "tokens_per_second": round(amounts[part] / statistics.median(spent), 2),
            "speedup": round(statistics.median(ratios), 3),
            "speedup_quartiles": [round(x, 3) for x in statistics.quantiles(ratios)[::2]],
            "speedup_ideal": round(ideal[part], 3),
        }
    request = (options.batch, options.prompt, options.new_tokens)
    return found | {
        "cache_bytes_per_token": cached[name],
        "parameters": sum(p.numel() for p in model.module.parameters()),
        "weight_bytes": inference.tensor_bytes(model),
        "file_bytes": sum(file.stat().st_size for file in path.glob("*.safetensors")),
        "peak_memory_gib": round(inference.peak_in_child(path, options.dtype, *request), 3),
    }


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--sparsity", type=float, default=0.25)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        arms = arms_of(options.model, options.sparsity, options.dtype, Path(folder))
        rows = measure(arms, options)
    about = {name: str(value) for name, value in vars(options).items() if name != "output"}
    about |= {
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "model": options.model.name,
    }
    options.output.write_text(json.dumps({"settings": about, "arms": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
