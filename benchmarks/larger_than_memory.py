"""Score, fuse and merge a random Llama by processes that may hold less than its weights.

    python benchmarks/larger_than_memory.py work/large --limit 3 --output work/large.json

The model is written tensor by tensor, so the machine needs the limit and the disk alone. Each verb
is a process of its own under RLIMIT_DATA: what needs the whole model in memory fails.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fusegpt.data.window_files import write_windows
from fusegpt.models.stored import stored_in, write_tensors

MEMORY = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_MMAP_THRESHOLD_": "1048576"}
"""Arrow reserves nothing beforehand; what is freed goes back to the system at once."""


def main() -> None:
    options = _options()
    place = options.directory
    size = _write_model(place / "dense", options)
    windows = torch.randint(3, 1000, (options.windows, options.length))
    write_windows(place / "windows.parquet", windows.numpy(), {"corpus": "random"})
    recipe = {
        "name": "larger_than_memory",
        "importance": {"metric": "macro_influence"},
        "calibration": {"batch_size": 2},
        "recovery": {"method": "fusion", "group_size": options.group, "rank": 8, "lora_rank": 8}
        | {"epochs": 1, "batch_size": 2},
        "finetune": {"sequences": options.windows},
        "dtype": "float32",
    }
    rows = _run(place, recipe, options)
    result = {
        "parameters": size // 4,
        "weights_gib": round(size / 2**30, 3),
        "limit_gib": options.limit,
        "windows": [options.windows, options.length],
        "group": options.group,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "verbs": rows,
    }
    text = json.dumps(result, indent=1)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")
    print(text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="An empty one, with room for three models.")
    parser.add_argument("--limit", type=float, default=3.0, help="GiB of data of each process.")
    parser.add_argument("--blocks", type=int, default=22)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--group", type=int, default=2)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--length", type=int, default=16)
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def _write_model(directory: Path, options: argparse.Namespace) -> int:
    """Write random weights with one tensor in memory; return their bytes."""
    directory.mkdir(parents=True)
    config = LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.width,
        intermediate_size=options.width * 11 // 4,
        num_hidden_layers=options.blocks,
        num_attention_heads=options.width // 64,
        num_key_value_heads=options.width // 512,
        tie_word_embeddings=False,
        architectures=["LlamaForCausalLM"],
        dtype="float32",
    )
    with torch.device("meta"):
        kinds = {n: (t.dtype, t.shape) for n, t in LlamaForCausalLM(config).state_dict().items()}
    draw = torch.Generator().manual_seed(0)

    def value(name: str) -> torch.Tensor:
        shape = kinds[name][1]
        return torch.ones(shape) if len(shape) == 1 else torch.randn(shape, generator=draw) * 0.02

    write_tensors(directory / "model.safetensors", kinds, value, {"format": "pt"})
    config.save_pretrained(directory)
    about = {"kind": "model", "num_blocks": options.blocks, "base_model": "random"}
    (directory / "source.json").write_text(json.dumps(about), encoding="utf-8")
    return sum(math.prod(shape) * dtype.itemsize for dtype, shape in kinds.values())


def _run(place: Path, recipe: dict[str, object], options: argparse.Namespace) -> list[object]:
    """Start, score and fuse so many times, merge: each a process under the limit."""
    dense, run = place / "dense", place / "run"
    manifest, record = run / "step-000" / "manifest.json", run / "recipe.json"
    rows = [_verb(options, "start", model=dense / "source.json", output=manifest,
                  recipe_settings=json.dumps(recipe), recipe_output=record)]  # fmt: skip
    windows = place / "windows.parquet"
    for number in range(1, options.steps + 1):
        folder = run / f"step-{number:03d}"
        scores, common = folder / "scores.json", {"model": manifest, "recipe": record}
        rows.append(_verb(options, "score", **common, calibration=windows, output=scores))
        more = {"scores": scores, "finetune": windows, "output": folder}
        rows.append(_verb(options, "fuse", **common, **more))
        manifest = folder / "manifest.json"
    rows.append(_verb(options, "merge", model=manifest, recipe=record, output=place / "merged"))
    stored = stored_in([place / "merged" / "model.safetensors"])
    rows[-1]["bytes"] = sum(tensor.nbytes for tensor in stored.values())
    return rows


def _verb(options: argparse.Namespace, verb: str, **asked: object) -> dict[str, object]:
    """Run one verb; return its seconds, and the most memory it had in its own pages and in all."""
    words = [word for name, value in asked.items() for word in (_flag(name), value)]
    limit = int(options.limit * 2**30)
    command = [sys.executable, "-c", "from fusegpt.cli import main; main()", verb, *map(str, words)]
    began = time.monotonic()
    process = subprocess.Popen(
        command,
        env={**os.environ, **MEMORY},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{verb}: ended with {os.waitstatus_to_exitcode(status)}")
    return {
        "verb": verb,
        "seconds": round(time.monotonic() - began, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_gib": round(usage.ru_maxrss / 2**20, 3),
    }


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


if __name__ == "__main__":
    main()
