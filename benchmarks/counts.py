"""What the work takes, counted and not timed: passes, bytes read, bytes held.

    python benchmarks/counts.py --output counts.json

A random Llama of six blocks is loaded, scored and tuned. Each count stands beside the most that it
may be; one above it ends the program with exit code 1. Whoever lowers a count lowers its bound.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fusegpt.importance.macro_influence import macro_influence
from fusegpt.models.checkpoints.load import load
from fusegpt.models.model import Model
from fusegpt.models.stored import Stored
from fusegpt.models.structure.kept_states import keeps
from fusegpt.models.structure.passes import counting_passes
from fusegpt.models.surgery.removal import remove
from fusegpt.recovery.fusion import fusion
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.room import using
from fusegpt.recovery.settings.group import Fusion
from fusegpt.units import Unit

BLOCKS, WINDOWS, LENGTH, BATCH, EPOCHS, GROUP = 6, 8, 32, 4, 2, 3
HIDDEN, INTERMEDIATE, VOCAB = 64, 128, 256
MATRICES = 4 * HIDDEN**2 + 3 * HIDDEN * INTERMEDIATE
BYTES = 4 * (BLOCKS * (MATRICES + 2 * HIDDEN) + 2 * VOCAB * HIDDEN + HIDDEN)
STATE = 4 * BATCH * LENGTH * HIDDEN

BOUNDS = {
    "bytes read to load the model": BYTES,
    "bytes read to load and score, streamed": BYTES,
    "block forward passes to score": WINDOWS * BLOCKS * (BLOCKS + 1) // 2,
    "block forward passes to score again": WINDOWS * 5,
    "bytes held while scoring": 18 * STATE,
    "block forward passes to fuse": WINDOWS * (4 + GROUP * (EPOCHS + 2)),
    "bytes held while fusing": 93 * STATE,
    "bytes held while fusing, spared": 71 * STATE,
}
"""The most that each count may be. Held are tensors that were made meanwhile, at their peak."""


def counted(model: Path, folder: Path) -> dict[str, int]:
    """Count everything on a model."""
    found = {"bytes read to load the model": _read(lambda: load(model, dtype="float32"))}
    ids = torch.randint(VOCAB, (WINDOWS, LENGTH), generator=torch.Generator().manual_seed(0))

    def score(of: Model) -> None:
        macro_influence(of, ids.split(BATCH), of.units())

    def fuse(of: Model) -> None:
        settings = Fusion(rank=4, lora_rank=4, group_size=GROUP, epochs=EPOCHS, batch_size=BATCH)
        checkpoint = Checkpoint(folder / "resume.safetensors", "counts")
        fusion(of, Unit("block", 2), ids, settings, seed=0, checkpoint=checkpoint)

    found["bytes read to load and score, streamed"] = _read(
        lambda: score(load(model, dtype="float32", weights="streamed"))
    )
    with using("keep"):
        for verb, work in (("score", score), ("fuse", fuse)):
            with counting_passes(loaded := load(model, dtype="float32"), verb, None) as pace:
                work(loaded)
            found[f"block forward passes to {verb}"] = pace.done
            found[f"bytes held while {verb[:-1]}ing"] = _held(model, work)
    found["block forward passes to score again"] = _passes_again(load(model, dtype="float32"), ids)
    with using("spare"):
        found["bytes held while fusing, spared"] = _held(model, fuse)
    return {name: found[name] for name in BOUNDS}


def _passes_again(model: Model, ids: torch.Tensor) -> int:
    """Passes of a scoring after block 4 went, which goes on from the states of the one before."""
    batches = ids.split(BATCH)
    kept = keeps(model, ids.numel(), batches[0], model.units())
    assert kept is not None, "no memory for some states"
    macro_influence(model, batches, model.units(), kept_states=kept)
    remove(model, Unit("block", 4))
    kept.cut(4)
    kept.begin(model, len(batches), model.units())
    with counting_passes(model, "score", None) as pace:
        macro_influence(model, batches, model.units(), kept_states=kept)
    return pace.done


def _read(work: Callable[[], object]) -> int:
    """Bytes of all tensors that are read from files."""
    sizes, real = [], Stored.read

    def read(stored: Stored) -> torch.Tensor:
        sizes.append(stored.nbytes)
        return real(stored)

    with mock.patch.object(Stored, "read", read):
        work()
    return sum(sizes)


def _held(model: Path, work: Callable[[Model], object]) -> int:
    """The most bytes of tensors made by some work that are there at one time."""
    loaded, activities = load(model, dtype="float32"), [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        work(loaded)
    events = profile.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    now = peak = 0
    for _, change in sorted(changes, key=lambda change: change[0]):
        now += change
        peak = max(peak, now)
    return peak


def _write_model(folder: Path) -> Path:
    config = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        vocab_size=VOCAB,
        num_hidden_layers=BLOCKS,
        num_attention_heads=4,
        num_key_value_heads=4,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    return folder / "model"


def main() -> None:
    """Count, write, and fail where a count is above its bound."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = counted(_write_model(Path(name)), Path(name))
    rows = [{"count": name, "value": found[name], "bound": bound} for name, bound in BOUNDS.items()]
    for row in rows:
        print(f"{row['count']:<34}{row['value']:>12,}  at most {row['bound']:,}")
    if options.output:
        options.output.write_text(json.dumps(rows, indent=1) + "\n")
    grown = [row["count"] for row in rows if row["value"] > row["bound"]]
    if grown:
        sys.exit(f"more than before: {', '.join(map(str, grown))}")


if __name__ == "__main__":
    logging.disable(logging.INFO)
    main()
