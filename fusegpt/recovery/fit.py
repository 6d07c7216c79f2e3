"""Training the factors of fused weights, whatever the loss: the model's own parameters follow."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fusegpt.errors import NumericsError
from fusegpt.models.model import Model
from fusegpt.nn.fused import FusedWeight
from fusegpt.nn.leaves import form_into, trainable, write_formed
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.room import compiled, compiles
from fusegpt.recovery.settings import Tuning
from fusegpt.recovery.training import Schedule, total_loss, train

__all__ = ["Fit", "fit_weights"]

logger = logging.getLogger(__name__)

LOSS = "loss"
"""Name of the best loss among the tensors that a checkpoint keeps; the others are numbered."""


@dataclass(frozen=True)
class Fit:
    """What a training came to.

    Attributes:
        rows: One per optimiser step of the last attempt.
        attempts: How often it was begun.
        undone: Whether every attempt ended above the loss that it began with.
        compiled: Whether weights were formed by compiled code, and blocks compiled.
    """

    rows: list[dict[str, Any]]
    attempts: int = 1
    undone: bool = False
    compiled: bool = field(default_factory=compiles)

    @property
    def steps(self) -> int:
        """Optimiser steps of all attempts."""
        return len(self.rows) * self.attempts


def fit_weights(
    model: Model,
    weights: Mapping[str, FusedWeight],
    loss_of: Callable[[int], Tensor],
    num_batches: int,
    tuning: Tuning,
    *,
    seed: int,
    checkpoint: Checkpoint | None,
    label: str,
) -> Fit:
    """Train the factors; the model's parameters end with the formed weights.

    Each weight is formed into its parameter once per optimiser step and the parameter's gradient is
    pulled back onto the factors, so the blocks run as they are. When the loss over all batches ends
    higher than it began, the factors go back to where they began, and the training is begun anew
    with half the rates as often as ``retries`` says (D25, D45).

    Args:
        model: Its parameters of the weights' names change.
        weights: By parameter name; all must have a part in the loss.
        loss_of: Gives the loss of batch number i.
        num_batches: Batches of an epoch.
        tuning: Length, order, learning rates, and what keeps the training steady.
        seed: Seed of the order of batches.
        checkpoint: For resuming.
        label: Names the work in messages.

    Raises:
        NumericsError: A loss of the last attempt is NaN or infinite.
    """
    training = _Training(model, weights, loss_of, num_batches, tuning, seed, checkpoint, label)
    begun = training.values()
    training.form()
    before = training.total()
    for attempt in range(checkpoint.reached() if checkpoint else 0, tuning.retries + 1):
        again = attempt < tuning.retries
        try:
            rows = training.run(attempt)
            after = training.total()
        except NumericsError as error:
            if not again:
                raise
            rows, after = [], math.inf
            logger.warning("%s", error)
        if after <= before:
            return Fit(rows, attempt + 1)
        rise = f"{label}: loss rose from {before:.4g} to {after:.4g}"
        logger.warning("%s; %s", rise, "tried again with half the rates" if again else "undone")
        training.put_back(begun)
    return Fit(rows, tuning.retries + 1, undone=True)


class _Training:
    """Factors, the model's parameters that they are formed into, and a loss."""

    def __init__(
        self,
        model: Model,
        weights: Mapping[str, FusedWeight],
        loss_of: Callable[[int], Tensor],
        num_batches: int,
        tuning: Tuning,
        seed: int,
        checkpoint: Checkpoint | None,
        label: str,
    ) -> None:
        self.weights, self.loss_of, self.tuning = weights, loss_of, tuning
        self.checkpoint, self.label = checkpoint, label
        self._write = compiled(write_formed)
        self.leaves = {name: model.parameter(name) for name in weights}
        order = (tuning.epochs, num_batches, tuning.shuffle, seed)
        self.schedule = Schedule(*order, warmup=tuning.warmup)
        self.kept: dict[str, Tensor] = {}

    def run(self, attempt: int) -> list[dict[str, Any]]:
        """Train from where the factors are; they end in their last state, or the best one."""
        if self.checkpoint is not None:
            self.checkpoint.attempt = attempt
            self.kept = self.checkpoint.kept
        self.kept.clear()
        peak = 0.5**attempt
        updates = self._parameters(FusedWeight.update_parameters)
        coefficients = self._parameters(FusedWeight.coefficient_parameters)
        rate = self.tuning.learning_rate
        second = self.tuning.coefficient_learning_rate or rate
        with trainable(self.leaves.values()), torch.enable_grad():
            rows = train(
                [(updates, rate * peak), (coefficients, second * peak)],
                self.loss_of,
                self.schedule,
                before=self.form,
                after=self.pull,
                after_epoch=self._keep_best if self.tuning.keep == "best" else lambda: None,
                clip_norm=self.tuning.clip_norm,
                checkpoint=self.checkpoint,
                label=self.label,
            )
        self.form()
        if self.tuning.keep == "best":
            self._keep_best()
            self.put_back([self.kept[str(place)] for place in range(len(self.kept) - 1)])
        return rows

    def form(self) -> None:
        """Write the formed weights into the model."""
        form_into(self.leaves, self.weights, self._write)

    def pull(self) -> None:
        """Pull the gradients of the model's parameters back onto the factors."""
        for name, weight in self.weights.items():
            gradient = self.leaves[name].grad
            assert gradient is not None, name
            weight.pull(gradient)
            self.leaves[name].grad = None

    def total(self) -> float:
        """Return the loss over all batches of the weights as formed."""
        return total_loss(self.loss_of, range(self.schedule.num_batches))

    def values(self) -> list[Tensor]:
        """Return a copy of every factor."""
        return [parameter.detach().clone() for parameter in self._parameters(nn.Module.parameters)]

    @torch.no_grad()
    def put_back(self, values: Sequence[Tensor]) -> None:
        """Give the factors these values, and form the weights."""
        for parameter, value in zip(self._parameters(nn.Module.parameters), values, strict=True):
            parameter.copy_(value)
        self.form()

    def _keep_best(self) -> None:
        """Note the factors if the loss over all batches is the lowest so far."""
        self.form()
        loss = torch.tensor(self.total(), dtype=torch.float64)
        if LOSS not in self.kept or loss < self.kept[LOSS]:
            self.kept.update({str(place): value for place, value in enumerate(self.values())})
            self.kept[LOSS] = loss

    def _parameters(self, of: Callable[[FusedWeight], Any]) -> list[nn.Parameter]:
        return [parameter for weight in self.weights.values() for parameter in of(weight)]
