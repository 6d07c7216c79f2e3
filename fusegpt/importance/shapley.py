"""Shapley-style values: what sub-networks lose that lack a unit, beside those that have it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fusegpt.errors import ConfigError
from fusegpt.importance.ablation import states_without
from fusegpt.importance.checks import finite
from fusegpt.importance.drawn import Shapley
from fusegpt.importance.losses import sequence_loss
from fusegpt.models.model import Model
from fusegpt.models.structure.replay import head_logits
from fusegpt.models.structure.visits import recordings
from fusegpt.runtime import generator
from fusegpt.units import Unit

__all__ = ["shapley"]


@torch.no_grad()
def shapley(
    model: Model,
    batches: Sequence[Tensor],
    units: Sequence[Unit],
    settings: Shapley = Shapley(),
    *,
    seed: int,
    original: Model | None = None,
    details: dict[str, Tensor] | None = None,
) -> Tensor:
    """Score each unit by how much worse sub-networks without it are than those with it.

    mean(v | unit absent) - mean(v | unit present) over sub-networks and sequences; v is the
    sub-network's loss, or its logits' mean Euclidean distance from the whole model's.
    Paper: A deeper look at depth pruning of LLMs, arXiv 2407.16286 (decision D35).

    Args:
        model: The model as pruned so far, in eval mode. Unchanged on return.
        batches: Calibration token ids, each ``[batch, seq]`` int64, without padding. One sequence
            at a time goes through the model.
        units: The units still present; all other blocks are in every sub-network.
        settings: What v is, and which sub-networks are looked at.
        seed: Seed of the sampled sub-networks.
        original: The model whose logits distances are measured from, in place of ``model``'s own.
        details: Gets each score's ``standard_error`` over the sequences (jackknife); NaN for a
            single sequence.

    Returns:
        ``[units]`` float64 on the CPU; nats per token for ``loss``.

    Raises:
        ConfigError: Some unit is in all drawn sub-networks, or in none.
        NumericsError: A score is NaN or infinite. The message names the unit.
    """
    rows = [row for batch in batches for row in batch.split(1)]
    if settings.subnetworks == "leave_one_out":
        absent = torch.eye(len(units), dtype=torch.bool).expand(len(rows), -1, -1)
    else:
        number = len(rows) * settings.samples
        absent = _draw(number, len(units), settings.kept, seed).view(len(rows), -1, len(units))
        _check_both(absent, units)
    missing = [
        [[unit for unit, gone in zip(units, lacking, strict=True) if gone] for lacking in sets]
        for sets in absent.tolist()
    ]
    others = None if original is None else recordings(original, rows)
    found = []
    ablations = states_without(model, rows, missing)
    for row, (reference, states) in zip(rows, ablations, strict=True):
        if others is not None:
            reference = next(others).hidden_out
        measure = _measure(original or model, row, reference, settings.target)
        values_of_row = [measure(head_logits(model, row, x)).double().cpu() for x in states]
        found.append(torch.stack(values_of_row))
    values = torch.stack(found)  # [sequences, subnetworks]
    if details is not None:
        details["standard_error"] = _standard_errors(values, absent)
    return finite("shapley", units, _differences(values, absent))


def _draw(number: int, num_units: int, kept: float, seed: int) -> Tensor:
    """Which units each sub-network lacks: ``[number, units]`` bool, equally many in each row.

    Units are dealt from shuffled decks, so that all are absent about equally often; each row alone
    is still uniform over the sets of its size.
    """
    draw = generator(seed, "shapley")
    size = num_units - int(kept * num_units)
    deck: list[int] = []
    rows = torch.zeros(number, num_units, dtype=torch.bool)
    for row in rows:
        if len(deck) < size:
            fresh = torch.randperm(num_units, generator=draw).tolist()
            deck += [unit for unit in fresh if unit not in deck]
        row[deck[:size]] = True
        del deck[:size]
    return rows


def _check_both(absent: Tensor, units: Sequence[Unit]) -> None:
    number = absent.shape[0] * absent.shape[1]
    lacking = absent.sum((0, 1))
    for unit, count in zip(units, lacking.tolist(), strict=True):
        if count in (0, number):
            raise ConfigError(
                f"shapley: {unit} is {'absent from all' if count else 'in all'} {number} drawn"
                " sub-networks, must be in some only; raise samples, or change kept"
            )


def _measure(
    reference: Model, row: Tensor, last_states: Tensor, target: str
) -> Callable[[Tensor], Tensor]:
    """From a sub-network's logits ``[1, seq, vocab]`` to v."""
    if target == "loss":
        return lambda logits: sequence_loss(logits, row)
    whole = head_logits(reference, row, last_states)[:, :-1].float()
    return lambda logits: torch.linalg.vector_norm(whole - logits[:, :-1].float(), dim=-1).mean()


def _differences(values: Tensor, absent: Tensor) -> Tensor:
    """Mean without minus mean with each unit, pooled over sequences."""
    lacking = absent.flatten(0, 1).double()  # [sequences * subnetworks, units]
    pooled = values.flatten()[:, None]
    without = (lacking * pooled).sum(0) / lacking.sum(0)
    having = 1 - lacking
    return without - (having * pooled).sum(0) / having.sum(0)


def _standard_errors(values: Tensor, absent: Tensor) -> Tensor:
    """Jackknife over sequences: sub-networks share a sequence, so they are not independent."""
    number = len(values)
    if number == 1:
        return torch.full((absent.shape[-1],), float("nan"), dtype=torch.float64)
    others = [[j for j in range(number) if j != i] for i in range(number)]
    left = torch.stack([_differences(values[rest], absent[rest]) for rest in others])
    return ((number - 1) / number * (left - left.mean(0)).square().sum(0)).sqrt()
