"""Tasks of lm-eval: zero-shot and few-shot choices, knowledge, generation."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import math
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval import evaluator
from lm_eval.models.huggingface import HFLM

from fusegpt.data.tokens import load_tokenizer
from fusegpt.errors import ConfigError
from fusegpt.evaluation.items import fingerprint, pack
from fusegpt.evaluation.memory import give_back, out_of_memory
from fusegpt.evaluation.settings import ZeroShot
from fusegpt.evaluation.summary import Summary
from fusegpt.evaluation.task_files import aggregates, leaves, load_task, quiet
from fusegpt.models.model import Model
from fusegpt.pace import Pace
from fusegpt.runtime import dtype_name

__all__ = ["Part", "Plan", "plan", "zero_shot"]

logger = logging.getLogger(__name__)

SEEDS = {"random": 0, "numpy": 1234, "torch": 1234}
"""Those of lm-eval's command line."""


@dataclass(frozen=True)
class Part:
    """One task, its items read.

    Attributes:
        name: The task's name in lm-eval.
        task: lm-eval's object.
        limit: Take the first so many items; None: all.
        identity: All that decides the result besides the model.
    """

    name: str
    task: Any
    limit: int | None
    identity: Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """Tasks to measure one by one, and how their results become rows.

    Attributes:
        parts: The tasks, in the order of the settings.
        summary: What makes rows of their results.
    """

    parts: list[Part]
    summary: Summary

    def rows(self, results: Mapping[str, Any]) -> list[dict[str, Any]]:
        """A row per task and metric, per group, and the mean."""
        return self.summary.rows(results)


def plan(directory: Path, entries: Mapping[str, Any], settings: ZeroShot) -> Plan:
    """Find the tasks and read their items, before any weight is loaded.

    Args:
        directory: The model's directory: config and tokenizer.
        entries: The configuration's ``tasks``: where the items of a task, or of a group's tasks,
            are; the task's own entry, or that of the nearest group, counts.
        settings: Which tasks, and how their items are asked.

    Raises:
        ArtifactError: No tokenizer in the directory.
        ConfigError: lm-eval has no such task, or one is named twice.
        DataError: The items of a task are missing.
    """
    load_tokenizer(directory)
    names, limit = settings.tasks_read(), settings.limit
    members = {name: leaves(name) for name in names}
    parts: dict[str, Part] = {}
    for name in names:
        for leaf, led in members[name].items():
            if leaf in parts:
                raise ConfigError(f"tasks: {leaf!r} is there twice, the second time in {name!r}")
            entry = next((entries[one] for one in led if one in entries), None)
            task = load_task(leaf, entry, shots=settings.shots)
            if settings.max_tokens is not None and task.config.output_type == "generate_until":
                generation = {"max_gen_toks": settings.max_tokens}
                task.set_config("generation_kwargs", generation, update=True)
            with quiet():
                identity = _identity(task, limit)
            parts[leaf] = Part(leaf, task, limit, identity)
    groups = {name: aggregates(name) for name in names}
    listed = {name: list(below) for name, below in members.items()}
    return Plan(list(parts.values()), Summary(listed, groups, limit))


def zero_shot(model: Model, part: Part, *, batch_size: int = 16) -> dict[str, Any]:
    """Measure one task.

    Paper: Table II, whose values are lm-eval's acc_norm for PIQA, HellaSwag, ARC-e and ARC-c, and
    acc for WinoGrande.

    Args:
        model: In eval mode; unchanged on return.
        part: A part of a plan.
        batch_size: Requests at once to begin with; halved by itself when memory runs out. It does
            not change the result beyond rounding.

    Returns:
        ``{"metrics": {name: {value, stderr, higher_is_better, values}}, "num_samples", "items",
        "protocol"}``; ``values`` has one number per item, where the metric has them.

    Raises:
        ConfigError: Not even one request fits into memory, or the tokenizer has no special tokens.
    """
    result = None
    while result is None:
        try:
            result = _evaluate(model, part, batch_size)
        except TypeError as error:
            if model.tokenizer.eos_token_id is not None or model.tokenizer.bos_token_id is not None:
                raise
            raise ConfigError(
                f"{part.name}: the tokenizer must have a BOS or EOS token, which texts without a"
                " context begin with, has neither; name one in tokenizer_config.json"
            ) from error
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if not out_of_memory(error):
                raise
            if batch_size == 1:
                raise ConfigError(
                    f"{part.name}: not even one request fits into the memory of {model.device}"
                ) from None
            batch_size //= 2
            logger.info("%s: out of memory, going on with batches of %d", part.name, batch_size)
        if result is None:
            give_back(model.device)
    samples = result["samples"][part.name]
    count = len({sample["doc_id"] for sample in samples})
    dtype = dtype_name(model.dtype)
    return {
        "num_samples": count,
        "items": part.identity["items"],
        "protocol": {**part.identity, "dtype": dtype},
        "metrics": _metrics(result["results"][part.name], samples, part.task),
    }


def _identity(task: Any, limit: int | None) -> dict[str, Any]:
    config = task.config
    documents = task.eval_docs
    there = len(documents)
    taken = range(there if limit is None else min(limit, there))
    return {
        "harness": f"lm-eval {importlib.metadata.version('lm_eval')}",
        "version": (config.metadata or {}).get("version"),
        "shots": config.num_fewshot,
        "split": config.test_split or config.validation_split,
        "limit": None if limit is None or limit >= there else limit,
        "max_tokens": (config.generation_kwargs or {}).get("max_gen_toks"),
        "items": fingerprint(json.dumps(documents[i], sort_keys=True, default=str) for i in taken),
        "examples": _examples(task),
    }


def _examples(task: Any) -> str | None:
    """Fingerprint of what solved examples are drawn from."""
    if not task.config.num_fewshot:
        return None
    documents = task.fewshot_docs() or []
    return fingerprint(json.dumps(row, sort_keys=True, default=str) for row in documents)


def _evaluate(model: Model, part: Part, batch_size: int) -> Any:
    random.seed(SEEDS["random"])
    np.random.seed(SEEDS["numpy"])
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(SEEDS["torch"])
        harness = HFLM(
            pretrained=model.module,
            tokenizer=model.tokenizer,
            backend="causal",
            batch_size=batch_size,
        )
        part.task.set_fewshot_seed(SEEDS["torch"])
        with _counted(model, part.name):
            return evaluator.evaluate(
                harness,
                {"tasks": {part.name: part.task}, "groups": {}},
                limit=part.limit,
                bootstrap_iters=1000,
            )


@contextmanager
def _counted(model: Model, label: str) -> Iterator[None]:
    """Let the log tell how many sequences went through the model."""
    with Pace(label, unit="sequence") as pace:

        def count(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            pace.advance(len(args[0] if args else next(iter(kwargs.values()))))

        handle = model.module.register_forward_pre_hook(count, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


def _metrics(
    results: Mapping[str, Any], samples: list[dict[str, Any]], task: Any
) -> dict[str, dict[str, Any]]:
    """lm-eval's ``{"acc,none": 0.5, "acc_stderr,none": 0.1}`` with the values of the items."""
    metrics = {}
    better = task.higher_is_better()
    for key, value in results.items():
        metric, comma, kind = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        stderr = results.get(f"{metric}_stderr,{kind}")
        of_kind = [sample for sample in samples if sample["filter"] == kind]
        values = [sample.get(metric) for sample in sorted(of_kind, key=lambda row: row["doc_id"])]
        metrics[metric if kind == "none" else f"{metric} {kind}"] = {
            "value": float(value),
            "stderr": float(stderr) if isinstance(stderr, int | float) else None,
            "higher_is_better": bool(better.get(metric, True)),
            "values": _numbers(values, float(value)),
        }
    return metrics


def _numbers(values: list[Any], mean: float) -> str | None:
    """The items' values as text, if the metric is their mean."""
    if not all(isinstance(value, bool | int | float | np.number) for value in values):
        return None
    numbers = [float(value) for value in values]
    if not numbers or not math.isclose(math.fsum(numbers) / len(numbers), mean, abs_tol=1e-9):
        return None
    packed: str | None = pack(numbers, "")["values"]
    return packed
