"""Several evaluations of one model in one process: it is loaded once, or not at all."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusegpt.artifacts import STAGE_VERSION, sha256
from fusegpt.config import Weights
from fusegpt.evaluation import EVALS, Evaluation
from fusegpt.evaluation.files_read import files_read, packages_read
from fusegpt.evaluation.settings import EvaluationSettings
from fusegpt.evaluation.store import Store, digest, model_digest
from fusegpt.provenance import provenance
from fusegpt.results.base import check, write
from fusegpt.results.exports import export_in
from fusegpt.results.files import Parent
from fusegpt.results.history import dense_directory
from fusegpt.results.models import Evaluation as Result

__all__ = ["Asked", "evaluate_together"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """One evaluation that is asked for.

    Attributes:
        eval: Key of ``EVALS``.
        settings: Its settings, checked.
        reads: Second argument of its planning function.
        output: Where the result goes.
    """

    eval: str
    settings: EvaluationSettings
    reads: Mapping[str, Any]
    output: Path

    @property
    def evaluation(self) -> Evaluation:
        """Its line of the table."""
        return EVALS[self.eval]

    def key(self, model: str, dtype: str) -> str | None:
        """A digest of all that a result follows from; None: it is timed anew whenever asked for.

        Libraries and device are left out: when they change, the workflow repeats nothing either.
        """
        if self.settings.reads == "models":
            return None
        files, packages = files_read(self.settings, self.reads), packages_read(self.reads)
        return digest(
            {
                "eval": self.eval,
                "version": STAGE_VERSION["evaluate"],
                "settings": self.settings.model_dump(),
                "reads": self.reads,
                "files": {file: sha256(file) for file in files},
                "dtype": dtype,
                "model": model,
                **({"packages": packages} if packages else {}),
            }
        )


def evaluate_together(
    model: Path,
    asked: Sequence[Asked],
    store: Path | None,
    *,
    dtype: str,
    device: str,
    weights: Weights = "resident",
) -> Iterator[Result]:
    """Measure what is not measured yet, and write each result as soon as there is one.

    What is in the store is read back, so whoever is interrupted loses one evaluation, and of one
    with parts only a part. Several processes share what can be shared; the leader does the rest.

    Args:
        model: Its directory, or a step's manifest.
        asked: The evaluations asked for, all of one dtype.
        store: A folder that keeps what was measured; None: nothing is kept.
        dtype: Type of the weights.
        device: Where the model is put.
        weights: All in memory, or read block by block; results are the same.

    Yields:
        What lies at each output, in the order of ``asked``; nothing where another process leads.
    """
    from fusegpt import parallel

    kept = Store(store, model_digest(model)) if store else None
    keys = [entry.key(kept.model, dtype) if kept else None for entry in asked]
    found = [kept.get({"key": key}) if kept and key else None for key in keys]
    found = parallel.agreed(found)
    waiting = [entry for entry, earlier in zip(asked, found, strict=True) if earlier is None]
    if not parallel.leads():
        waiting = [entry for entry in waiting if entry.evaluation.splits]
    place = {"dtype": dtype, "device": device}
    measured = _measure(model, waiting, kept, weights, **place)
    if not parallel.leads():
        for _ in measured:
            pass
        return
    for entry, key, result in zip(asked, keys, found, strict=True):
        if result is not None:
            logger.info("%s: measured before, read back from %s", entry.output, store)
        else:
            settings = entry.settings.model_dump()
            result = {"eval": entry.eval, "settings": settings, **next(measured)}
            if kept and key:
                kept.put({"key": key}, result)
        whole = result | {"parent": Parent.of(model, entry.output.parent)}
        record = check(whole, Result, entry.output)
        write(entry.output, record)
        yield record


def _measure(
    model: Path,
    asked: Sequence[Asked],
    kept: Store | None,
    weights: Weights,
    *,
    dtype: str,
    device: str,
) -> Iterator[dict[str, Any]]:
    """Plan all, load once, measure one after the other."""
    from fusegpt.evaluation.exported import check_measurable, run_gguf
    from fusegpt.evaluation.run import run
    from fusegpt.models.checkpoints.load import load, streamed_where
    from fusegpt.runtime import device as torch_device
    from fusegpt.runtime import peak_memory_gib, reset_peak_memory

    exported = export_in(model)
    gguf = exported if exported is not None and exported.gguf else None
    for entry in asked if gguf else ():
        check_measurable(entry.eval, entry.settings, model)
    unable = [entry.eval for entry in asked if not entry.settings.streams]
    weights = streamed_where(weights, not unable, ", ".join(unable))
    place = torch_device(device)
    directory = dense_directory(model)
    plans = [entry.evaluation.load()(directory, entry.reads, entry.settings) for entry in asked]
    how: dict[str, Any] = {"dtype": dtype, "device": place, "weights": weights}
    loaded = functools.cache(lambda: load(model, **how, packed=exported is not None))
    for number, (entry, plan) in enumerate(zip(asked, plans, strict=True)):
        own = reset_peak_memory() or number == 0
        if gguf:
            result = run_gguf(gguf, model, plan)
        else:
            result = run(entry.evaluation, plan, loaded, kept, dtype=dtype, device=device)
        yield {
            **result,
            "dtype": dtype,
            "memory_gib": round(peak_memory_gib(), 3) if own else None,
            "provenance": provenance(place),
        }
