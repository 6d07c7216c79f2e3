"""Re-ranking: the best candidates are tried shortly, and the one that recovers best goes."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from fusegpt.data.masked import tokens_in, unpadded
from fusegpt.errors import ArtifactError, DataError, NumericsError
from fusegpt.models.flops import forward_flops, head_flops
from fusegpt.models.model import Model
from fusegpt.models.structure.replay import record
from fusegpt.pace import Pace
from fusegpt.pruning.recipe import Recipe
from fusegpt.pruning.sections import Rerank
from fusegpt.recovery import RECOVERIES
from fusegpt.recovery.closed_form import next_token_loss
from fusegpt.recovery.resume import Checkpoint
from fusegpt.results import layout
from fusegpt.results.base import read, write
from fusegpt.results.records import ScoredUnit, Scores
from fusegpt.results.recovered import Reranking, Training, Trial, Trials
from fusegpt.runtime import Timer

__all__ = ["forget", "rerank"]

logger = logging.getLogger(__name__)

BATCH = 8
"""Sequences that run at once; changes results by rounding only."""


def rerank(
    model: Model,
    recipe: Recipe,
    scores: Scores,
    windows: Tensor,
    checkpoint: Checkpoint | None = None,
) -> Reranking:
    """Remove and recover each of the best candidates in a copy of the model, and choose.

    A trial is the recipe's own recovery with fewer windows, epochs and neighbours. Its result is
    judged on fine-tuning windows that no trial saw: 1 - mean over tokens of the cosine between the
    last hidden states of the model as it is and of the trial, or the loss of the next token. The
    lowest result is chosen, among equals the lower score (decision D41).

    Args:
        model: Unchanged; a copy of it lies beside it during a trial.
        recipe: Its ``rerank`` says how.
        scores: The scores of this step, from ``score_step``.
        windows: Fine-tuning token ids ``[sequences, length]`` int64.
        checkpoint: Finished trials are kept beside its file, and read back.

    Returns:
        A record: by, ``candidates`` (unit, score, result, first and last loss of the trial,
        seconds), the ``chosen`` unit, and what all trials took: tokens, optimizer_steps, flops.

    Raises:
        DataError: Too few windows.
        NumericsError: A loss or the result of a trial is NaN or infinite.
    """
    settings = recipe.rerank
    assert settings is not None
    seen, judged = _split(windows, settings)
    rows = sorted(scores.units, key=lambda row: (row.score, row.unit))
    before = _last_states(model, judged) if settings.by == "cosine" else []
    trials = _finished(checkpoint)
    if checkpoint is not None:
        checkpoint.before = sum(trial.seconds for trial in trials)
    tried = rows[: settings.candidates]
    with Pace("trials", len(tried), "candidate", done=len(trials)) as pace:
        for row in tried[len(trials) :]:
            trials.append(_try(model, recipe, row, seen, judged, before))
            _keep(checkpoint, trials)
            pace.advance()
    best = min(trials, key=lambda trial: trial.result)
    listed = ", ".join(f"{trial.unit} {trial.result:.4g}" for trial in trials)
    logger.info(
        "tried %d candidates (%s): %s; %s goes",
        *(len(trials), settings.by, listed, best.unit),
    )
    return Reranking.among(settings.by, trials, best.unit)


def forget(checkpoint: Checkpoint) -> None:
    """Delete the kept trials; the step has ended well."""
    _file(checkpoint).unlink(missing_ok=True)


def _try(
    model: Model,
    recipe: Recipe,
    row: ScoredUnit,
    seen: Tensor,
    judged: Tensor,
    before: Sequence[Tensor],
) -> Trial:
    """One candidate's trial, in a copy of the model."""
    assert recipe.rerank is not None
    by, short, recover = recipe.rerank.by, recipe.trial(), RECOVERIES[recipe.method].load()
    with Timer() as timer:
        trial = copy.deepcopy(model, {id(model.adapter_state): model.adapter_state})
        report = recover(trial, row.unit, seen, short.recovery, seed=recipe.seed)
        result = _turn(trial, judged, before) if before else next_token_loss(trial, judged)
    if not math.isfinite(result):
        raise NumericsError(f"rerank: the trial of {row.unit} comes to {result} by {by}")
    training = Training.model_validate({"rows": report.rows})
    judging = forward_flops(trial, trial.kept, tokens_in(judged), judged.shape[1])
    judging += head_flops(trial, tokens_in(judged)) if by == "loss" else 0
    return Trial(
        unit=row.unit,
        score=row.score,
        result=result,
        first_loss=training.first_loss,
        last_loss=training.last_loss,
        seconds=round(timer.seconds, 3),
        tokens=report.tokens,
        optimizer_steps=report.optimizer_steps,
        flops=report.flops + judging,
    )


def _split(windows: Tensor, settings: Rerank) -> tuple[Tensor, Tensor]:
    """The windows of the trials, and those behind, which results are judged on."""
    wanted = settings.sequences + settings.judged
    if len(windows) < wanted:
        raise DataError(
            f"finetune data: {len(windows)} sequences, but rerank needs {settings.sequences} to try"
            f" and {settings.judged} to judge on"
        )
    return windows[: settings.sequences], windows[settings.sequences : wanted]


@torch.no_grad()
def _last_states(model: Model, windows: Tensor) -> list[Tensor]:
    """What leaves the last block, ``[batch, seq, hidden]`` each, on the CPU."""
    return [record(model, batch).hidden_out.cpu() for batch in unpadded(windows, BATCH)]


def _turn(model: Model, windows: Tensor, before: Sequence[Tensor]) -> float:
    """1 - mean cosine over tokens with the states ``before``; sums in float64."""
    total = 0.0
    for old, new in zip(before, _last_states(model, windows), strict=True):
        total += cosine_similarity(old.float(), new.float(), dim=-1).double().sum().item()
    return 1 - total / tokens_in(windows)


def _finished(checkpoint: Checkpoint | None) -> list[Trial]:
    """Trials that a killed run of the same step had finished; none that cannot be trusted."""
    if checkpoint is None or not _file(checkpoint).is_file():
        return []
    try:
        kept = read(_file(checkpoint), Trials)
    except ArtifactError as error:
        logger.warning("%s; its trials start again", error)
        return []
    if kept.fingerprint != checkpoint.fingerprint:
        return []
    logger.info("%d trials were finished before", len(kept.trials))
    return list(kept.trials)


def _keep(checkpoint: Checkpoint | None, trials: Sequence[Trial]) -> None:
    if checkpoint is not None:
        kept = Trials(fingerprint=checkpoint.fingerprint, trials=list(trials))
        write(_file(checkpoint), kept)


def _file(checkpoint: Checkpoint) -> Path:
    return checkpoint.path.with_name(layout.TRIALS)
