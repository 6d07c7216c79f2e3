"""Which modules of a family read the residual stream, and which write it.

The one place of this project that names modules of architectures: slicing must know what stands
on both sides of each norm, and that cannot be found by looking.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fusegpt.errors import ArchitectureError
from fusegpt.registry import suggestion

__all__ = ["FAMILIES", "Family", "family_of"]


@dataclass(frozen=True)
class Family:
    """Names of a family's modules.

    Attributes:
        decoder: Below the causal model: what holds embeddings, ``layers`` and the last norm.
        embeddings: Below the decoder: their sum enters the first block.
        final_norm: Below the decoder; the head reads it.
        attention_norm, mlp_norm: Below a block, like the rest; no ``mlp_norm``: attention and mlp
            run side by side and both read ``attention_norm``.
        attention: Called as a module.
        mlp: Modules that run one after the other.
        attention_readers, mlp_readers: Linear maps that read a norm.
        attention_writer, mlp_writer: Linear maps whose outputs are added to the stream.
        needs: Entries of the config without which the names mean something else.
    """

    decoder: str = "model"
    embeddings: tuple[str, ...] = ("embed_tokens",)
    final_norm: str = "norm"
    attention_norm: str = "input_layernorm"
    attention: str = "self_attn"
    attention_readers: tuple[str, ...] = (
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
    )
    attention_writer: str = "self_attn.o_proj"
    mlp_norm: str | None = "post_attention_layernorm"
    mlp: tuple[str, ...] = ("mlp",)
    mlp_readers: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    mlp_writer: str = "mlp.down_proj"
    needs: Mapping[str, Any] = field(default_factory=dict)


LLAMA = Family()
FAMILIES: dict[str, Family] = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "phi3": Family(attention_readers=("self_attn.qkv_proj",), mlp_readers=("mlp.gate_up_proj",)),
    "phi": Family(
        final_norm="final_layernorm",
        attention_writer="self_attn.dense",
        mlp_norm=None,
        mlp_readers=("mlp.fc1",),
        mlp_writer="mlp.fc2",
    ),
    "opt": Family(
        decoder="model.decoder",
        embeddings=("embed_tokens", "embed_positions"),
        final_norm="final_layer_norm",
        attention_norm="self_attn_layer_norm",
        attention_writer="self_attn.out_proj",
        mlp_norm="final_layer_norm",
        mlp=("fc1", "activation_fn", "fc2"),
        mlp_readers=("fc1",),
        mlp_writer="fc2",
        needs={"do_layer_norm_before": True, "_remove_final_layer_norm": False},
    ),
}
"""By ``model_type`` of the config."""


def family_of(config: Mapping[str, Any], where: str = "slicegpt") -> Family:
    """The names for a config.

    Args:
        config: Contents of a ``config.json``.
        where: Whose config it is, for the message.

    Raises:
        ArchitectureError: The family is not in the table, or is built in another way than usual.
    """
    kind = str(config.get("model_type"))
    if kind not in FAMILIES:
        raise ArchitectureError(
            f"{where}: slicegpt cannot slice {kind!r}{suggestion(kind, FAMILIES)}"
        )
    family = FAMILIES[kind]
    for name, value in family.needs.items():
        if config.get(name, value) != value:
            raise ArchitectureError(
                f"{where}: slicegpt needs {name} {value!r} of {kind!r}, got {config[name]!r};"
                " norms after the residual sum do not commute with a rotation"
            )
    if config.get("word_embed_proj_dim", config.get("hidden_size")) != config.get("hidden_size"):
        raise ArchitectureError(
            f"{where}: slicegpt needs embeddings as wide as the blocks, {config['hidden_size']},"
            f" got word_embed_proj_dim {config['word_embed_proj_dim']}"
        )
    return family
