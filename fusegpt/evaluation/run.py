"""One evaluation of one model: plan, load, measure; parts measured before are read back."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable, Mapping
from typing import Any

from fusegpt import parallel
from fusegpt.artifacts import STAGE_VERSION
from fusegpt.evaluation import Evaluation
from fusegpt.evaluation.store import Store
from fusegpt.models.model import Model
from fusegpt.pace import Pace
from fusegpt.runtime import Timer

__all__ = ["run"]

logger = logging.getLogger(__name__)


def run(
    evaluation: Evaluation,
    plan: Any,
    load: Callable[[], Model],
    store: Store | None,
    *,
    dtype: str,
    device: str,
) -> dict[str, Any]:
    """Measure what a plan asks for.

    Args:
        evaluation: A line of the table.
        plan: What its planning function returned.
        load: Loads the model; called at most once, and not at all when every part is stored.
        store: Where measured parts are kept; None: measure everything.
        dtype: Type of the weights; part of what a result is stored under.
        device: Where the model is put; part of it, too.

    Returns:
        ``rows``; ``model``: num_blocks, kept, removed, parameters; ``seconds`` of measuring, those
        of stored parts included.
    """
    measure = evaluation.measurement.load()
    session = _Session(load)
    if not evaluation.in_parts:
        model = session.model()
        with Timer() as timer:
            rows = measure(model, plan)
        return {"rows": rows, "model": _describe(model), "seconds": round(timer.seconds, 3)}
    common = {
        "eval": evaluation.target,
        "version": STAGE_VERSION["evaluate"],
        "dtype": dtype,
        "device": device.partition(":")[0],
        **{name: importlib.metadata.version(name) for name in ("torch", "transformers")},
    }
    results = {}
    own = plan.parts[parallel.own(len(plan.parts))]
    with Pace("evaluation", len(own), "part") as pace:
        for number, part in enumerate(own, 1):
            identity = {**common, "part": part.name, "of": dict(part.identity)}
            stored = store.get(identity) if store else None
            if stored is None:
                stored = _measured(measure, session.model(), part)
                if store:
                    store.put(identity, stored)
            results[part.name] = stored
            pace.advance()
            _report(part.name, stored, number, len(own))
    results = parallel.merged(results)
    return {
        "rows": plan.rows({name: stored["result"] for name, stored in results.items()}),
        "model": next(iter(results.values()))["model"],
        "seconds": round(sum(stored["seconds"] for stored in results.values()), 3),
    }


class _Session:
    """The model, loaded when it is needed first."""

    def __init__(self, load: Callable[[], Model]) -> None:
        self._load = load
        self._model: Model | None = None

    def model(self) -> Model:
        if self._model is None:
            self._model = self._load()
        return self._model


def _measured(measure: Callable[..., Any], model: Model, part: Any) -> dict[str, Any]:
    with Timer() as timer:
        result = measure(model, part)
    return {"result": result, "model": _describe(model), "seconds": round(timer.seconds, 3)}


def _report(name: str, stored: Mapping[str, Any], number: int, total: int) -> None:
    metrics = stored["result"]["metrics"].items()
    values = ", ".join(f"{metric} {entry['value']:.4f}" for metric, entry in metrics)
    count, seconds = stored["result"]["num_samples"], stored["seconds"]
    logger.info("%s (%d/%d): %s on %d items, %.1f s", name, number, total, values, count, seconds)


def _describe(model: Model) -> dict[str, Any]:
    return {
        "num_blocks": model.num_blocks,
        "kept": model.kept,
        "removed": [unit.to_json() for unit in model.removed],
        "parameters": sum(parameter.numel() for parameter in model.module.parameters()),
    }
