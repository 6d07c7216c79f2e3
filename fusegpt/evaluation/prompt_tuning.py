"""Tuning a model on a few prompts, for a while: afterwards it is what it was."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fusegpt.errors import NumericsError
from fusegpt.evaluation.prompts import Prompts
from fusegpt.evaluation.settings import Classification
from fusegpt.models.model import Model
from fusegpt.models.structure.next_token import next_logits
from fusegpt.nn.fused import FusedWeight
from fusegpt.nn.leaves import form_into, trainable
from fusegpt.pace import Pace
from fusegpt.runtime import generator

__all__ = ["predictions", "tuned"]


@contextmanager
def tuned(
    model: Model,
    words: Sequence[int],
    examples: Prompts,
    validation: Prompts,
    settings: Classification,
    label: str,
) -> Iterator[dict[str, Any]]:
    """Inside, the model is the tuned one; afterwards it is bit-equal to what it was.

    Weights have float32 masters, of which the model's own dtype is formed before each step. Batches
    are the same in every epoch.

    Args:
        model: In eval mode, so that nothing is dropped at random.
        words: Token of each class.
        examples: Prompts to tune on.
        validation: Prompts whose best epoch is kept.
        settings: How the model is tuned.
        label: Names the work in messages.

    Yields:
        validation: accuracy of the kept epoch; ``epoch``, from 1; first_loss and last_loss, means
        over an epoch; trainable_parameters.

    Raises:
        NumericsError: A loss is NaN or infinite.
    """
    leaves = _leaves(model, settings.tune)
    weights = {
        name: FusedWeight(
            leaf.detach().clone(),
            update_rank="full" if settings.tune == "all" else settings.lora_rank,
            generator=generator(settings.seed, "prompts", name),
        )
        for name, leaf in leaves.items()
    }
    try:
        yield _tune(model, words, examples, validation, settings, leaves, weights, label)
    finally:
        for name, weight in weights.items():
            leaves[name].data.copy_(weight.base)


@torch.no_grad()
def predictions(model: Model, words: Sequence[int], prompts: Prompts, batch_size: int) -> Tensor:
    """Class of each prompt, ``[prompts]`` int64 on the CPU: the word with the highest logit."""
    return _scores(model, words, prompts, batch_size).argmax(dim=-1)


def _scores(model: Model, words: Sequence[int], prompts: Prompts, batch_size: int) -> Tensor:
    """Logits of the label words, ``[prompts, classes]`` float32 on the CPU."""
    order = sorted(range(len(prompts.ids)), key=lambda place: len(prompts.ids[place]))
    scores = torch.empty(len(order), len(words))
    with Pace("classification", len(order), "prompt") as pace:
        for start, batch in enumerate(prompts.batches(batch_size, order)):
            ids, lengths, _ = batch
            places = order[start * batch_size : start * batch_size + len(ids)]
            scores[places] = next_logits(model, ids, lengths)[:, list(words)].float().cpu()
            pace.advance(len(ids))
    return scores


def _tune(
    model: Model,
    words: Sequence[int],
    examples: Prompts,
    validation: Prompts,
    settings: Classification,
    leaves: Mapping[str, nn.Parameter],
    weights: Mapping[str, FusedWeight],
    label: str,
) -> dict[str, Any]:
    masters = [p for weight in weights.values() for p in weight.parameters()]
    optimizer = torch.optim.Adam(masters, lr=settings.learning_rate)
    batches = list(examples.batches(settings.batch_size, range(len(examples.ids))))
    steps, losses = settings.epochs * len(batches), list[float]()
    best: tuple[tuple[float, float], int, dict[str, Tensor]] | None = None
    with Pace(label, steps, "optimiser step") as pace:
        for epoch in range(1, settings.epochs + 1):
            for batch in batches:
                optimizer.param_groups[0]["lr"] = settings.learning_rate * (1 - len(losses) / steps)
                loss = _step(model, words, batch, leaves, weights)
                losses.append(_finite(loss, label, len(losses)))
                optimizer.step()
                form_into(leaves, weights)
                pace.advance(note=f"loss {loss:.4g}")
            reached = _quality(model, words, validation, settings.batch_size)
            if best is None or reached > best[0]:
                kept = {name: leaf.detach().to("cpu", copy=True) for name, leaf in leaves.items()}
                best = (reached, epoch, kept)
    assert best is not None
    for name, leaf in leaves.items():
        leaf.data.copy_(best[2][name])
    return {
        "validation": best[0][0],
        "epoch": best[1],
        "first_loss": math.fsum(losses[: len(batches)]) / len(batches),
        "last_loss": math.fsum(losses[-len(batches) :]) / len(batches),
        "trainable_parameters": sum(master.numel() for master in masters),
    }


def _step(
    model: Model,
    words: Sequence[int],
    batch: tuple[Tensor, Tensor, Tensor],
    leaves: Mapping[str, nn.Parameter],
    weights: Mapping[str, FusedWeight],
) -> float:
    """Set the masters' gradients; return the loss."""
    ids, lengths, classes = batch
    with trainable(leaves.values()), torch.enable_grad():
        scores = next_logits(model, ids, lengths)[:, list(words)].float()  # [batch, classes]
        loss = cross_entropy(scores, classes.to(scores.device))
        loss.backward()
        for name, weight in weights.items():
            gradient = leaves[name].grad
            weight.pull(torch.zeros_like(leaves[name]) if gradient is None else gradient)
    return loss.item()


@torch.no_grad()
def _quality(
    model: Model, words: Sequence[int], prompts: Prompts, batch_size: int
) -> tuple[float, float]:
    """Accuracy, and minus the loss."""
    scores = _scores(model, words, prompts, batch_size)
    right = (scores.argmax(dim=-1) == prompts.classes).double().mean().item()
    return right, -cross_entropy(scores, prompts.classes).item()


def _leaves(model: Model, tune: str) -> dict[str, nn.Parameter]:
    if tune == "all":
        return dict(model.module.named_parameters())
    return {
        f"blocks.{index}.{name}": matrix
        for index in model.kept
        for name, matrix in model.matrices(index).items()
    }


def _finite(loss: float, label: str, step: int) -> float:
    if not math.isfinite(loss):
        raise NumericsError(f"{label}: loss is {loss} at step {step}; lower the learning_rate")
    return loss
