"""What a distillation saves: by stored answers, by a gradient that is written down, by fused steps.

    python benchmarks/finish.py MODEL --output finish.json
    python benchmarks/finish.py MODEL --device cuda --length 2048 --windows 64 ...

A quarter of the blocks is removed. The teacher answers all windows once; then batches are learned
from its answers on disk, and from answers that it gives anew. Both must have equal losses.
Then the loss of a window's logits alone, and its gradient, as `nn.teaching.divergence` has them and
by automatic differentiation of the formula; both gradients must be equal. Then the optimiser's
steps alone, plain and fused; both must end at the same weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fusegpt.data.streamed import Streamed
from fusegpt.data.window_files import write_windows
from fusegpt.evaluation.inference import prompt_ids
from fusegpt.models.checkpoints.load import load
from fusegpt.models.model import Model
from fusegpt.models.structure.replay import head_logits, record
from fusegpt.models.surgery.removal import remove
from fusegpt.nn.teaching import Answers, answer, divergence
from fusegpt.recovery.healing.answers import AnswersFile, answer_windows, read_answers
from fusegpt.recovery.healing.heal import batch_losses
from fusegpt.recovery.healing.objective import Objective
from fusegpt.recovery.healing.trained import trained
from fusegpt.recovery.settings.finish import Distill
from fusegpt.recovery.training import BETAS
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


def plain(
    logits: Tensor, answers: Answers, temperature: float, following: Tensor, share: float
) -> Tensor:
    """Return what ``divergence`` returns, each term as the formula has it."""
    teacher = answers.logits.float() / temperature
    said = nn.functional.log_softmax(logits.float() / temperature, -1)
    if answers.ids is None:
        expected = nn.functional.log_softmax(teacher, -1)
    else:
        assert answers.rest is not None
        expected = nn.functional.log_softmax(torch.cat([teacher, answers.rest[..., None]], -1), -1)
        others = said.scatter(-1, answers.ids, -torch.inf).logsumexp(-1, keepdim=True)
        said = torch.cat([said.gather(-1, answers.ids), others], -1)
    taught = (expected.exp() * (expected - said)).sum(-1) * temperature**2
    wide = nn.functional.cross_entropy(logits.float().mT, following, reduction="none")
    return (1 - share) * taught + share * wide


def losses_alone(model: Model, ids: Tensor, top_k: int, rounds: int) -> dict[str, Any]:
    """Seconds of the loss of some windows' logits with half of it from the next token."""
    with torch.no_grad():
        logits = head_logits(model, ids, record(model, ids).hidden_out)[:, :-1]
        given = answer(logits.roll(1, 1), top_k, 1.0)
    following = ids[:, 1:].to(logits.device)
    ways = {
        "written": lambda x: divergence(x, given, 1.0, following=following, share=0.5),
        "plain": lambda x: plain(x, given, 1.0, following, 0.5),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        gradients: list[Tensor] = []
        for way, loss_of in ways.items():
            leaf = logits.detach().requires_grad_()
            with Timer(model.device) as timer:
                loss_of(leaf).mean().backward()
            seconds[way].append(timer.seconds)
            assert leaf.grad is not None
            gradients.append(leaf.grad)
        largest = gradients[1].abs().max()
        assert (gradients[0] - gradients[1]).abs().max() <= 1e-2 * largest
    ratios = [a / b for a, b in zip(seconds["plain"], seconds["written"], strict=True)]
    return {"loss_plain_over_written": round(statistics.median(ratios), 3)}


def steps_alone(parameters: Sequence[nn.Parameter], rounds: int) -> dict[str, Any]:
    """Seconds of the optimiser's steps on copies of some parameters, with gradients of noise."""
    seconds: dict[str, list[float]] = {"plain": [], "fused": []}
    ends = []
    for way, found in seconds.items():
        copies = [nn.Parameter(p.detach().clone()) for p in parameters]
        drawn = torch.Generator().manual_seed(0)
        for copy in copies:
            copy.grad = 1e-3 * torch.randn(copy.shape, generator=drawn).to(copy)
        optimizer = torch.optim.Adam(copies, lr=3e-4, betas=BETAS, fused=way == "fused" or None)
        optimizer.step()  # makes the moments
        for _ in range(rounds):
            with Timer(copies[0].device) as timer:
                optimizer.step()
            found.append(timer.seconds)
        ends.append(copies)
    for one, other in zip(*ends, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)
    ratio = statistics.median(seconds["plain"]) / statistics.median(seconds["fused"])
    return {"step_plain_over_fused": round(ratio, 3)}


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
    within = 1e-3 if model.dtype == torch.float32 else 1e-2
    with trained(model, settings, seed=0) as training:
        for number in range(options.windows // options.batch):
            said = {}
            for way, loss_of in losses.items():
                with Timer(model.device) as timer:
                    said[way] = loss_of(number).item()
                seconds[way].append(timer.seconds)
            assert abs(said["stored"] - said["live"]) <= within * abs(said["live"]), said
        steps = steps_alone(training.parameters, options.windows)
    alone = losses_alone(model, ids[: options.batch], options.top_k, options.windows)
    size = sum(about.bytes or 0 for about in stored.record.files.values())
    ratios = [a / b for a, b in zip(seconds["live"], seconds["stored"], strict=True)]
    return {
        "seconds_once": round(once.seconds, 3),
        "seconds_stored": [round(x, 3) for x in seconds["stored"]],
        "seconds_live": [round(x, 3) for x in seconds["live"]],
        "live_over_stored": round(statistics.median(ratios), 3),
        "bytes_per_token": round(size / ids.numel(), 1),
        **alone,
        **steps,
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
