"""The exact plain model of one without some sublayers: they are there again, full of zeros."""

from __future__ import annotations

import torch
import transformers
from torch import Tensor
from transformers import CONFIG_MAPPING, PreTrainedModel

from fusegpt.errors import ConfigError
from fusegpt.models.model import Model
from fusegpt.runtime import quiet

__all__ = ["zeroed"]


@torch.no_grad()
def zeroed(model: Model) -> PreTrainedModel:
    """Build the model of the base architecture whose removed sublayers are all zeros.

    Every parameter of a removed attention or mlp is zero, so that it adds zero: the logits are the
    same, and any program that knows the architecture loads it. Nothing is saved by it.

    Args:
        model: Lacks sublayers. Unchanged; remaining weights are shared, not copied.

    Returns:
        On the device of ``model``; without what is not written into checkpoints (tables that the
        architecture computes for itself), so it can be saved but not run.

    Raises:
        ConfigError: Nothing is missing; the checkpoint is a plain one as it is.
    """
    removed = getattr(model.module.config, "removed_sublayers", None)
    if not removed:
        raise ConfigError(
            "--zeroed: is for models without attentions or mlps; none is missing here"
        )
    settings = model.module.config.to_dict()
    for name in ("model_type", "removed_sublayers"):
        settings.pop(name)
    config = CONFIG_MAPPING[removed["base_model_type"]].from_dict(settings)
    with quiet(), torch.device("meta"):
        whole: PreTrainedModel = getattr(transformers, removed["base_architecture"])(config)
    remaining = model.module.state_dict()
    values = {
        name: remaining[name] if name in remaining else _zeros(model, like)
        for name, like in whole.state_dict().items()
    }
    whole.load_state_dict(values, assign=True)
    whole.tie_weights()
    return whole


def _zeros(model: Model, like: Tensor) -> Tensor:
    return torch.zeros(like.shape, dtype=model.dtype, device=model.device)
