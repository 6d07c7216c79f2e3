"""Checkpoints without some attention or mlp sublayers, for transformers' Auto classes.

``import fusegpt.models.sublayers`` once, and ``AutoModelForCausalLM.from_pretrained`` loads them,
as do ``AutoConfig`` and ``AutoModelForImageTextToText``. Nothing but torch and transformers is
imported here.

On disk such a model has a ``model_type`` of its own, so that a program that knows nothing of it
refuses instead of filling what is missing with random numbers. In memory it is an instance of its
architecture's own class, built as ever and then cut; the removed modules' places are held by
``Removed``, which has no parameter, computes nothing and fills no cache. What is cut stands in the
configuration's only additional entry::

    "removed_sublayers": {
      "base_model_type": "llama", "base_architecture": "LlamaForCausalLM",
      "blocks": "model.layers",
      "attention": {"3": {"zero": {"self_attn": 2}, "pass": {"input_layernorm": 0}}},
      "mlp": {"7": {"zero": {"mlp": 0}, "pass": {"post_attention_layernorm": 0}}}
    }

Numbers in quotes are places in this model's list of blocks, from 0. A module under ``zero``
returns zeros, one under ``pass`` its input (nothing reads it any more); the number beside its name
is the length of the tuple that it returns, 0 for a bare tensor.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PretrainedConfig,
    PreTrainedModel,
)

__all__ = [
    "MODEL_TYPE",
    "Removed",
    "SublayersConfig",
    "cache_places",
    "replacements",
    "sublayer_classes",
]

MODEL_TYPE = "fusegpt_sublayers"
KEY = "removed_sublayers"
KINDS = ("attention", "mlp")
NUMBER_NAMES = ("layer_idx", "layer_id", "layer_index", "layer_number", "block_idx")
"""Names of the attribute in which an attention keeps its place in the cache."""


class Removed(nn.Module):
    """Stands where a module stood; no parameters.

    Args:
        returns: Length of the tuple that the module returned; 0: a bare tensor.
        zero: Return zeros of the input's shape; otherwise the input itself.
    """

    def __init__(self, returns: int = 0, *, zero: bool = True) -> None:
        super().__init__()
        self.returns = returns
        self.zero = zero

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Take whatever the module took; the first tensor is the one that counts."""
        hidden = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        value = torch.zeros_like(hidden) if self.zero else hidden
        return (value, *[None] * (self.returns - 1)) if self.returns else value

    def extra_repr(self) -> str:
        """Say what this module returns."""
        return "zeros" if self.zero else "its input"


def replacements(parts: Mapping[str, Mapping[str, int]]) -> dict[str, Removed]:
    """What stands for the modules of one removed sublayer, by their names in the block."""
    zeros = {name: Removed(returns) for name, returns in parts["zero"].items()}
    return zeros | {name: Removed(n, zero=False) for name, n in parts["pass"].items()}


def cache_places(kinds: Sequence[str], gone: Collection[int]) -> dict[int, int]:
    """Where remaining attentions keep their keys and values: the first places of their own kind.

    A cache has a layer for each block, of the kind that the configuration says (sliding or full),
    and is asked for its length at the first layer of a kind. Hence the remaining ones move up.

    Args:
        kinds: The kind of each block's attention.
        gone: Places of blocks without attention.

    Returns:
        Place of the block to place in the cache, for blocks with attention.
    """
    free = {kind: iter([p for p, k in enumerate(kinds) if k == kind]) for kind in set(kinds)}
    return {place: next(free[kind]) for place, kind in enumerate(kinds) if place not in gone}


def attention_kinds(config: PretrainedConfig, count: int) -> list[str]:
    """The kind of each block's attention, as caches see it."""
    kinds = getattr(config.get_text_config(decoder=True), "layer_types", None)
    return list(kinds) if kinds else ["attention"] * count


def numbers(block: nn.Module, number: int) -> Iterable[tuple[nn.Module, str]]:
    """Modules of a block that call ``number`` their place, each with the attribute's name."""
    for module in block.modules():
        for name in NUMBER_NAMES:
            if type(vars(module).get(name)) is int and vars(module)[name] == number:
                yield module, name


def cut(module: PreTrainedModel) -> None:
    """Replace what a freshly built model's configuration says is removed."""
    removed = getattr(module.config, KEY)
    blocks: Any = module.get_submodule(removed["blocks"])
    for kind in KINDS:
        for place, parts in removed[kind].items():
            for name, stand_in in replacements(parts).items():
                setattr(blocks[int(place)], name, stand_in)
    gone = {int(place) for place in removed["attention"]}
    places = cache_places(attention_kinds(module.config, len(blocks)), gone)
    for place, new in places.items():
        for holder, name in list(numbers(blocks[place], place)):
            setattr(holder, name, new)


@functools.cache
def sublayer_classes(model_type: str, architecture: str) -> tuple[Any, Any]:
    """Return the configuration and model class of an architecture with sublayers removed.

    Args:
        model_type: The architecture's name for transformers, such as ``llama``.
        architecture: The name of its model class.

    Raises:
        ValueError: transformers has no such class.
    """
    base = getattr(transformers, architecture, None)
    if base is None or model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"{KEY}: transformers {transformers.__version__} has no {architecture} ({model_type})"
        )
    base_config = CONFIG_MAPPING[model_type]

    def to_dict(self: Any) -> dict[str, Any]:
        plain: dict[str, Any] = base_config.to_dict(self) | {"model_type": MODEL_TYPE}
        return plain

    def from_dict(cls: Any, /, config_dict: Mapping[str, Any], **kwargs: Any) -> Any:
        own = {key: value for key, value in config_dict.items() if key != "model_type"}
        return super(config_class, cls).from_dict(own, **kwargs)

    def build(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        base.__init__(self, config, *args, **kwargs)
        cut(self)

    place = {"__module__": __name__}
    methods = {"to_dict": to_dict, "from_dict": classmethod(from_dict)}
    config_class: Any = type(f"Sublayers{base_config.__name__}", (base_config,), methods | place)
    about = {"config_class": config_class, "__init__": build}
    model_class: Any = type(f"Sublayers{architecture}", (base,), about | place)
    for auto in (AutoModelForCausalLM, AutoModelForImageTextToText):
        mapping = auto._model_mapping
        known = mapping[base_config] if base_config in mapping else ()
        if base in (known if isinstance(known, tuple) else (known,)):
            auto.register(config_class, model_class)
    return config_class, model_class


class SublayersConfig(PretrainedConfig):
    """What ``AutoConfig`` finds; reading it gives the architecture's own configuration class."""

    model_type = MODEL_TYPE

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], **kwargs: Any) -> Any:
        """Read a ``config.json`` with a ``removed_sublayers`` entry.

        Raises:
            ValueError: The entry is missing, or transformers lacks the architecture.
        """
        removed = config_dict.get(KEY)
        if not isinstance(removed, Mapping):
            raise ValueError(f"config.json: {MODEL_TYPE} must have the entry {KEY}")
        classes = sublayer_classes(removed["base_model_type"], removed["base_architecture"])
        return classes[0].from_dict(config_dict, **kwargs)


AutoConfig.register(MODEL_TYPE, SublayersConfig, exist_ok=True)
