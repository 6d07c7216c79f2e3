"""Giving a model the biases that its config can ask for."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from transformers import PretrainedConfig

from fusegpt.errors import ArchitectureError
from fusegpt.models.model import Model, split_name
from fusegpt.models.structure.configs import text_configs
from fusegpt.models.surgery.round_trip import check_round_trip, rebuilt

__all__ = ["give_bias"]


@torch.no_grad()
def give_bias(model: Model, name: str) -> None:
    """Make sure a bias exists, so that plain transformers will load it.

    Where the config has a switch that adds this bias, the switch is turned on and every bias it
    adds starts at zero, which changes no output. The config round-trip check decides which switch
    that is.

    Args:
        model: Changed in place.
        name: ``blocks.<dense index>.<module>.bias``.

    Raises:
        ArchitectureError: The bias is not there and no switch of the config adds it.
    """
    index, inner = split_name(name)
    place = f"{_prefix(model, model.block(index))}.{inner}"
    own = {parameter for parameter, _ in _all(model.module)}
    if place in own:
        return
    for config in text_configs(model.module):
        for switch in sorted(key for key, value in vars(config).items() if value is False):
            if "bias" in switch and _switch_on(model, config, switch, place, own):
                return
    raise ArchitectureError(
        f"{type(model.module).__name__}: {place} does not exist and no switch of the config adds"
        " it, so no plain checkpoint could hold it; use another recovery"
    )


def _switch_on(
    model: Model, config: PretrainedConfig, switch: str, place: str, own: set[str]
) -> bool:
    """Turn a switch on and add what it adds; off again when that is not just biases."""
    setattr(config, switch, True)
    added: list[tuple[nn.Module, str]] = []
    try:
        built = dict(_all(rebuilt(model.module)))
        new = built.keys() - own
        if place not in new or own - built.keys() or not all(n.endswith(".bias") for n in new):
            raise ArchitectureError(f"{switch} does not add {place}")
        for name in new:
            owner = model.module.get_submodule(name.rpartition(".")[0])
            zeros = torch.zeros(built[name].shape, dtype=model.dtype, device=_memory(model))
            owner.register_parameter("bias", nn.Parameter(zeros, requires_grad=False))
            added.append((owner, "bias"))
        check_round_trip(model.module)
    except ArchitectureError:
        setattr(config, switch, False)
        for owner, attribute in added:
            owner.register_parameter(attribute, None)
        return False
    return True


def _memory(model: Model) -> torch.device:
    """Return where zeros lie, also in a model that waits for its weights: no file has them."""
    return torch.device("cpu") if model.device.type == "meta" else model.device


def _all(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters under every name they have; a model without memory does not tie its own."""
    return module.named_parameters(remove_duplicate=False)


def _prefix(model: Model, block: nn.Module) -> str:
    prefix: str = next(name for name, module in model.module.named_modules() if module is block)
    return prefix
