"""Keeping unfolded fusions (``fold: at_end``) between steps: to tensors and back."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from fusegpt.models.model import Model
from fusegpt.nn.fused import FusedWeight

__all__ = ["adapter_tensors", "restore_adapters"]


def adapter_tensors(model: Model, names: Iterable[str]) -> dict[str, Tensor]:
    """Return the factors of some fused weights, and each donor once, by name.

    ``fused/<weight>/<factor>`` and ``donor/<removed index>.<parameter>``. A weight that is its
    own donor needs no copy.

    Args:
        model: Carries the fused weights.
        names: Keys of ``model.fused``.
    """
    tensors: dict[str, Tensor] = {}
    for name in names:
        weight = model.fused[name]
        for factor, tensor in weight.state().items():
            tensors[f"fused/{name}/{factor}"] = tensor
        for key, donor in weight.donors.items():
            if donor.data_ptr() != weight.base.data_ptr():
                tensors[f"donor/{key}.{_parameter(name)}"] = donor
    return tensors


def restore_adapters(model: Model) -> None:
    """Rebuild ``model.fused`` from ``model.adapter_state`` and form the weights.

    Args:
        model: Freshly loaded, its fused parameters holding their dense values.
    """
    states: dict[str, dict[str, Tensor]] = {}
    for key, tensor in model.adapter_state.items():
        kind, _, rest = key.partition("/")
        if kind == "fused":
            name, _, factor = rest.rpartition("/")
            states.setdefault(name, {})[factor] = tensor
    for name, state in states.items():
        if not model.is_gone(name):
            model.fused[name] = _rebuild(model, name, state)


def _rebuild(model: Model, name: str, state: dict[str, Tensor]) -> FusedWeight:
    parameter = model.parameter(name)
    base = parameter.detach().clone()
    donors: dict[str, Tensor] = {}
    for unit in model.removed:
        if any(factor.startswith(f"coefficients.{unit.index}.") for factor in state):
            lent = model.adapter_state.get(f"donor/{unit.index}.{_parameter(name)}")
            donors[str(unit.index)] = base if lent is None else lent.to(base.device)
    weight = FusedWeight.from_state(base, state, donors)
    parameter.data.copy_(weight.form())
    return weight


def _parameter(name: str) -> str:
    return name.split(".", 2)[2]
