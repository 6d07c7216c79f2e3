"""What a teacher's stored answers save a distillation: seconds of a batch with and without them.

    python benchmarks/finish.py MODEL --output finish.json
    python benchmarks/finish.py MODEL --device cuda --length 2048 --windows 64 ...

A quarter of the blocks is removed. The teacher answers all windows once; then batches are learned
from its answers on disk, and from answers that it gives anew. Both must have equal losses.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fusegpt.data.streamed import Streamed
from fusegpt.data.window_files import write_windows
from fusegpt.evaluation.inference import prompt_ids
from fusegpt.models.checkpoints.load import load
from fusegpt.models.model import Model
from fusegpt.models.structure.replay import head_logits, record
from fusegpt.models.surgery.removal import remove
from fusegpt.nn.teaching import Answers, answer
from fusegpt.recovery.healing.answers import AnswersFile, answer_windows, read_answers
from fusegpt.recovery.healing.heal import batch_losses
from fusegpt.recovery.healing.objective import Objective
from fusegpt.recovery.healing.trained import trained
from fusegpt.recovery.settings.finish import Distill
from fusegpt.runtime import Timer, peak_memory_gib


@dataclass(frozen=True)
class Live(AnswersFile):
    """Answers that the teacher gives when it is asked."""

    teacher: Model
    data: Streamed

    @torch.no_grad()
    def at(self, rows: slice, places: slice, device: torch.device) -> Answers:
        ids = self.data.tokens(rows.start, rows.stop).to(device)
        states = record(self.teacher, ids).hidden_out
        logits = head_logits(self.teacher, ids[:, places], states[:, places])
        found = answer(logits, self.record.top_k, self.record.temperature)
        assert found.ids is not None and found.rest is not None
        return Answers(found.logits.half(), found.ids, found.rest)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Answer once, then learn each batch in both ways, in turn."""
    dense, model = (
        load(options.model, dtype=options.dtype, device=options.device) for _ in range(2)
    )
    ids = prompt_ids(dense, options.windows, options.length)
    write_windows(folder / "windows.parquet", ids.numpy(), {"corpus": "prompt"})
    settings = Distill(
        batch_size=options.batch, top_k=options.top_k, chunk=options.length, micro_batch_size=1
    )
    with Timer(dense.device) as once:
        answer_windows(dense, folder / "windows.parquet", folder / "answers", top_k=options.top_k)
    stored = read_answers(folder / "answers", folder / "windows.parquet", options.top_k, 1.0)
    middle = model.num_blocks // 2
    gone = max(1, model.num_blocks // 4)
    remove(model, *model.units()[middle - gone // 2 : middle - gone // 2 + gone])
    data = Streamed.of(ids)
    ways = {"stored": stored, "live": Live(stored.record, {}, dense, data)}
    losses = {
        way: batch_losses(model, data, settings, Objective(answers, next_token=0.0))
        for way, answers in ways.items()
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    with trained(model, settings, seed=0):
        for number in range(options.windows // options.batch):
            said = {}
            for way, loss_of in losses.items():
                with Timer(model.device) as timer:
                    said[way] = loss_of(number).item()
                seconds[way].append(timer.seconds)
            assert abs(said["stored"] - said["live"]) <= 1e-3 * abs(said["live"]), said
    size = sum(about.bytes or 0 for about in stored.record.files.values())
    ratios = [a / b for a, b in zip(seconds["live"], seconds["stored"], strict=True)]
    return {
        "seconds_once": round(once.seconds, 3),
        "seconds_stored": [round(x, 3) for x in seconds["stored"]],
        "seconds_live": [round(x, 3) for x in seconds["live"]],
        "live_over_stored": round(statistics.median(ratios), 3),
        "bytes_per_token": round(size / ids.numel(), 1),
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--top-k", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(options, Path(folder))
    about = {name: value for name, value in vars(options).items() if name != "output"}
    about |= {"model": options.model.name, "threads": torch.get_num_threads()}
    whole = {"settings": about, **measured, "memory_gib": round(peak_memory_gib(), 3)}
    options.output.write_text(json.dumps(whole, indent=2) + "\n")


if __name__ == "__main__":
    main()
