"""Evaluations of a GGUF file: llama.cpp computes, on the same windows as everybody else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fusegpt.errors import ConfigError
from fusegpt.evaluation.perplexity import Plan, rows_of
from fusegpt.evaluation.settings import EvaluationSettings, Perplexity
from fusegpt.exports.gguf import losses
from fusegpt.exports.targets import parse_target
from fusegpt.results.exports import Export
from fusegpt.runtime import Timer

__all__ = ["check_measurable", "run_gguf"]


def check_measurable(name: str, settings: EvaluationSettings, path: Path) -> None:
    """Refuse what is not measured on a GGUF file.

    Raises:
        ConfigError: It is another evaluation than perplexity.
    """
    if not isinstance(settings, Perplexity):
        raise ConfigError(
            f"{path}: must be measured by perplexity, which llama.cpp computes, got {name}; export"
            " to a checkpoint to measure anything else"
        )


def run_gguf(record: Export, path: Path, plan: Plan) -> dict[str, Any]:
    """Measure the perplexity of a GGUF file.

    Args:
        record: What its directory says.
        path: The directory.
        plan: The windows.

    Returns:
        ``rows``, ``model`` and ``seconds``, as of any evaluation; the protocol's dtype is the type
        of the file.
    """
    assert record.gguf is not None, record
    with Timer() as timer:
        found = losses(path / record.gguf, plan.ids.numpy())
        means = torch.from_numpy(found.nats).mean(dim=1)  # [windows]
        rows = rows_of(means, plan, parse_target(record.export).type)
    names = ("num_blocks", "kept", "removed", "parameters")
    model = {name: value for name, value in record.to_json().items() if name in names}
    return {"rows": rows, "model": {"removed": [], **model}, "seconds": round(timer.seconds, 3)}
