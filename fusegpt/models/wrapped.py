"""Model classes around a family's causal model whose blocks no longer are the family's own.

A child says by its configuration what differs, and builds that in; embeddings, head, cache and the
forward pass of the whole are the family's.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationMixin,
    PretrainedConfig,
    PreTrainedModel,
)

from fusegpt.models.model import Model

__all__ = ["WrappedConfig", "WrappedForCausalLM", "dense_config", "wrapped"]


class WrappedConfig(PretrainedConfig):
    """The configuration of such a model.

    Attributes:
        text_config: The config of the family's model inside.
    """

    sub_configs = {"text_config": AutoConfig}  # noqa: RUF012

    def __init__(self, text_config: Any = None, **kwargs: Any) -> None:
        """Complete what is not given: a small Llama."""
        if text_config is None:
            text_config = AutoConfig.for_model("llama")
        if isinstance(text_config, Mapping):
            text_config = AutoConfig.for_model(**text_config)
        self.text_config = text_config
        tied = getattr(text_config, "tie_word_embeddings", False)
        super().__init__(**{"tie_word_embeddings": tied, **kwargs})


class WrappedForCausalLM(PreTrainedModel, GenerationMixin):
    """A family's causal model, ``inner``, with other blocks; a child's ``rebuild`` makes them."""

    base_model_prefix = "inner"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.inner = AutoModelForCausalLM.from_config(config.text_config)
        self.rebuild(config)
        self.post_init()

    def rebuild(self, config: Any) -> None:
        """Give the family's model the form that the configuration says; values are arbitrary."""
        raise NotImplementedError

    def get_input_embeddings(self) -> nn.Module:
        """The token embeddings."""
        found: nn.Module = self.inner.get_input_embeddings()
        return found

    def get_output_embeddings(self) -> nn.Module:
        """The head."""
        found: nn.Module = self.inner.get_output_embeddings()
        return found

    def get_decoder(self, *args: Any, **kwargs: Any) -> nn.Module:
        """The part without the head."""
        found: nn.Module = self.inner.get_decoder()
        return found

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> Any:
        """As of the family's causal model."""
        return self.inner(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )


def dense_config(model: Model) -> Any:
    """Return the config of a model that is about to be wrapped, without where it lay."""
    dense = copy.deepcopy(model.module.config)
    dense.name_or_path = ""
    return dense


def wrapped(model: Model, config: WrappedConfig, kind: type[WrappedForCausalLM]) -> Model:
    """Put a rebuilt module inside its model class, with the dense numbering.

    Args:
        model: Its module has the form that ``config`` says.
        config: Made from ``dense_config``.
        kind: The model class.
    """
    inner = model.module
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, name, getattr(inner.config, name, None))
    with torch.device("meta"):
        module = kind(config)
    module.inner = inner
    module.generation_config = inner.generation_config
    module.eval().requires_grad_(False)
    return Model(module, model.kept, model.num_blocks, model.removed, model.source)
