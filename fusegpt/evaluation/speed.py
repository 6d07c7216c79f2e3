"""Speed and memory of inference, the dense and the pruned model interleaved in one run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fusegpt.data.directories import text_config
from fusegpt.errors import ConfigError
from fusegpt.evaluation import inference
from fusegpt.evaluation.settings import Speed
from fusegpt.models.checkpoints.load import load
from fusegpt.models.model import Model
from fusegpt.pace import Pace
from fusegpt.results import layout
from fusegpt.results.models import Checkpoint, Slice, read_record
from fusegpt.results.records import Start, Step
from fusegpt.runtime import dtype_name

__all__ = ["Plan", "plan", "speed"]

logger = logging.getLogger(__name__)

BATCH_SIZES = (1, 4)
PARTS = ("prefill", "decode")


@dataclass(frozen=True)
class Plan:
    """What is timed.

    Attributes:
        model: Where the model lies.
        dense: Where the dense model lies; None: the model is the dense one.
        settings: Which requests, and how often.
    """

    model: Path
    dense: Path | None
    settings: Speed

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Requests at once, one measurement each."""
        return tuple(self.settings.batch_sizes or BATCH_SIZES)


def plan(directory: Path, models: Mapping[str, Path | None], settings: Speed) -> Plan:
    """Find the dense model and check the lengths, before any weight is loaded.

    Args:
        directory: The model's directory; for a step, that of its dense model.
        models: ``model``: what is measured; ``dense``: its dense model, or None: known or not
            needed.
        settings: Which requests, and how often.

    Raises:
        ConfigError: A request is longer than the model's positions, or a pruned checkpoint comes
            without its dense model, or with another one.
    """
    prompt, new_tokens = settings.prompt, settings.new_tokens
    longest = getattr(text_config(directory), "max_position_embeddings", None)
    if longest is not None and prompt + new_tokens > longest:
        raise ConfigError(
            f"prompt: with new_tokens at most {longest}, the model's positions,"
            f" got {prompt} + {new_tokens}"
        )
    path = models["model"]
    assert path is not None
    return Plan(path, _dense(path, directory, models.get("dense")), settings)


def speed(model: Model, plan: Plan) -> list[dict[str, Any]]:
    """Time requests and count what they cost.

    Every figure is the median over the rounds, with the quartiles as ``spread``. A speed-up is the
    median of the rounds' own ratios, next to the ideal: operations for the prefill, bytes read for
    decoding. A ratio above its ideal is noise and says so in ``note``.

    Args:
        model: In eval mode; unchanged on return.
        plan: Where its dense model lies, and what to time.

    Returns:
        Rows of the task ``batch N`` for each batch size, and of the task ``model``.
    """
    arms, dtype = {"pruned" if plan.dense else "dense": model}, dtype_name(model.dtype)
    memory = _peak(model, plan, dtype)  # of a process with one more model, so before the dense one
    if plan.dense is not None:
        arms["dense"] = load(plan.dense, dtype=model.dtype, device=model.device)
    cached = {name: inference.cache_bytes(arm, plan.settings.prompt) for name, arm in arms.items()}
    protocol = {"dtype": dtype, "device": model.device.type, "threads": torch.get_num_threads()}
    asked = plan.settings
    protocol |= {name: getattr(asked, name) for name in ("prompt", "new_tokens", "rounds")}
    rows: list[dict[str, Any]] = []
    for batch in plan.batch_sizes:
        seconds = _time(arms, plan, batch)
        found = _speeds(next(iter(arms)), seconds, plan, batch)
        if plan.dense is not None:
            found += _ratios(arms, cached, seconds, plan, batch)
        rows += [_row(f"batch {batch}", plan.settings.rounds, protocol, **entry) for entry in found]
    rows += [
        _row("model", 1, protocol, **entry)
        for entry in _sizes(model, next(iter(cached.values())), memory)
    ]
    _log(rows)
    return rows


def _dense(path: Path, directory: Path, named: Path | None) -> Path | None:
    """Where the dense model lies; None when ``path`` is one."""
    record = None if layout.record_in(path) is None else read_record(path)
    step = isinstance(record, Start | Step)
    pruned = isinstance(record, Checkpoint) and (record.removed or isinstance(record, Slice))
    if not (step or pruned):
        return None
    if named is None and not step:
        raise ConfigError(f"{path}: speed needs the dense model beside it; name it with --dense")
    dense = named or directory
    whole = text_config(directory).num_hidden_layers
    made_of = record.num_blocks if isinstance(record, Checkpoint) else whole
    if (blocks := text_config(dense).num_hidden_layers) != made_of:
        raise ConfigError(
            f"--dense: must be the dense model of {path}, of {made_of} blocks, got {dense}, which"
            f" has {blocks}"
        )
    return dense


def _time(arms: Mapping[str, Model], plan: Plan, batch: int) -> dict[str, np.ndarray]:
    """Seconds of each arm, ``[rounds, 2 parts]``; each round runs every arm twice, ABBA."""
    asked = plan.settings
    prompts = {name: inference.prompt_ids(arm, batch, asked.prompt) for name, arm in arms.items()}
    for name, arm in arms.items():  # warm-up
        inference.request(arm, prompts[name], asked.new_tokens)
    seconds = {name: np.zeros((asked.rounds, 2)) for name in arms}
    order = [*list(arms)[::-1], *arms]
    with Pace(f"speed, batch {batch}", asked.rounds, "round") as pace:
        for number in range(asked.rounds):
            for name in order:
                spent = inference.request(arms[name], prompts[name], asked.new_tokens)
                seconds[name][number] += np.array(spent) / 2
            pace.advance()
    return seconds


def _speeds(
    name: str, seconds: Mapping[str, np.ndarray], plan: Plan, batch: int
) -> list[dict[str, Any]]:
    prefill, decode = seconds[name].T
    return [
        _figure("prefill", batch * plan.settings.prompt / prefill, "tokens/s"),
        _figure("decode", batch * plan.settings.new_tokens / decode, "tokens/s"),
        _figure("latency", prefill + decode, "s", higher_is_better=False),
    ]


def _ratios(
    arms: Mapping[str, Model],
    cached: Mapping[str, float],
    seconds: Mapping[str, np.ndarray],
    plan: Plan,
    batch: int,
) -> list[dict[str, Any]]:
    """Speed-ups of each round, next to the ideal from counting."""
    context = plan.settings.prompt + plan.settings.new_tokens // 2
    costs = {
        name: (
            inference.prefill_flops(arm, plan.settings.prompt),
            inference.decode_bytes(arm, batch, context, cached[name]),
        )
        for name, arm in arms.items()
    }
    found = []
    for part, name in enumerate(PARTS):
        ideal = costs["dense"][part] / costs["pruned"][part]
        ratio = _figure(f"{name}_speedup", seconds["dense"][:, part] / seconds["pruned"][:, part])
        if ratio["value"] > ideal:
            ratio["note"] = f"above the ideal {ideal:.3f}: noise"
        found += [ratio, {"metric": f"{name}_speedup_ideal", "value": ideal, "unit": "ratio"}]
    return found


def _figure(
    metric: str, values: np.ndarray, unit: str = "ratio", *, higher_is_better: bool = True
) -> dict[str, Any]:
    low, median, high = (float(x) for x in np.quantile(values, [0.25, 0.5, 0.75]))
    spread = [low, high]
    better = {"higher_is_better": higher_is_better}
    return {"metric": metric, "value": median, "unit": unit, "spread": spread, **better}


def _sizes(model: Model, cached: float, peak: float) -> list[dict[str, Any]]:
    parameters = sum(weight.numel() for weight in model.module.parameters())
    values = {
        "parameters": (parameters, "weights"),
        "file_size": (inference.tensor_bytes(model) / 2**20, "MiB"),
        "kv_cache": (cached, "bytes/token"),
        "peak_memory": (peak, "GiB"),
    }
    return [
        {"metric": metric, "value": float(value), "unit": unit, "higher_is_better": False}
        for metric, (value, unit) in values.items()
    ]


def _peak(model: Model, plan: Plan, dtype: str) -> float:
    size = (max(plan.batch_sizes), plan.settings.prompt, plan.settings.new_tokens)
    if model.device.type == "cuda":
        return inference.peak_of_request(model, *size)
    return inference.peak_in_child(plan.model, dtype, *size)


def _row(task: str, count: int, protocol: Mapping[str, Any], **entry: Any) -> dict[str, Any]:
    common = {"task": task, "higher_is_better": True, "num_samples": count}
    return {**common, **entry, "protocol": dict(protocol)}


def _log(rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        note = f" ({row['note']})" if row.get("note") else ""
        logger.info("%s %s: %.4g %s%s", row["task"], row["metric"], row["value"], row["unit"], note)
