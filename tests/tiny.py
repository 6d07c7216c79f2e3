"""Tiny random models of every family, built from configs alone; no download.

Vocabulary 128, hidden 32, feed-forward 64, 6 blocks, 4 heads, 2 key/value heads. Weights with two
or more axes are drawn from N(0, 0.15): freshly initialised models are almost linear, and a block
would hardly matter. Vision towers have 6 layers too, so that they could be taken for the decoder.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from fusegpt.models.model import Model
from fusegpt.runtime import quiet

VOCAB, HIDDEN, BLOCKS = 128, 32, 6
IMAGE_TOKEN = 120

SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
MODERN = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": 64,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    **SPECIAL,
}
OLD = {k: v for k, v in MODERN.items() if k != "num_key_value_heads"}
GPT2 = {"vocab_size": VOCAB, "n_embd": HIDDEN, "n_layer": BLOCKS, "n_head": 4, "n_positions": 128}
GPT2 |= SPECIAL
MIXED = ["sliding_attention", "full_attention"] * 3
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
DEEPSEEK = {
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 2,
    "num_key_value_heads": 4,
}
LINEAR = {
    "layer_types": ["linear_attention", "linear_attention", "full_attention"] * 2,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "head_dim": 8,
}
MAMBA2 = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_expand": 2,
}
CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
    "projection_dim": 32,
}
SIGLIP = {k: v for k, v in CLIP.items() if k != "projection_dim"}
SIGLIP |= {"model_type": "siglip_vision_model", "vision_use_head": False}
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
QWEN_VL_TEXT = {**MODERN, "rope_parameters": ROPE}
QWEN_VL_TOKENS = {
    "image_token_id": IMAGE_TOKEN,
    "video_token_id": 121,
    "vision_start_token_id": 122,
    "vision_end_token_id": 123,
}

TEXT: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", MODERN),
    "llama_tied": ("Llama", {**MODERN, "tie_word_embeddings": True}),
    "mistral_swa": ("Mistral", {**MODERN, "sliding_window": 4}),
    "mixtral": ("Mixtral", {**MODERN, "num_local_experts": 4}),
    "ministral": (
        "Ministral",
        {**MODERN, "head_dim": 8, "sliding_window": 4, "layer_types": MIXED},
    ),
    "qwen2": ("Qwen2", MODERN),
    "qwen2_swa": (
        "Qwen2",
        {**MODERN, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 3},
    ),
    "qwen3": ("Qwen3", {**MODERN, "head_dim": 8}),
    "qwen3_moe": ("Qwen3Moe", {**MODERN, **EXPERTS, "head_dim": 8, "mlp_only_layers": [0, 3]}),
    "qwen3_next": ("Qwen3Next", {**MODERN, **EXPERTS, **LINEAR}),
    "gemma": ("Gemma", {**MODERN, "head_dim": 8}),
    "gemma2": ("Gemma2", {**MODERN, "head_dim": 8, "sliding_window": 4}),
    "gemma3_text": (
        "Gemma3",
        {**MODERN, "head_dim": 8, "sliding_window": 4, "layer_types": MIXED[:5] + MIXED[:1]},
    ),
    "gemma3_text_default": (
        "Gemma3",
        {**MODERN, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4},
    ),
    "phi": ("Phi", OLD),
    "phi3": ("Phi3", MODERN),
    "phimoe": ("Phimoe", {**MODERN, "num_local_experts": 4}),
    "opt": (
        "OPT",
        {**OLD, "ffn_dim": 64, "word_embed_proj_dim": HIDDEN, "do_layer_norm_before": True},
    ),
    "opt_proj": (
        "OPT",
        {**OLD, "ffn_dim": 64, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
    ),
    "gpt2": ("GPT2LMHeadModel", GPT2),
    "gpt_bigcode": ("GPTBigCode", {**GPT2, "n_inner": 64}),
    "gpt_neo": (
        "GPTNeo",
        {
            **{k: v for k, v in OLD.items() if k not in ("num_hidden_layers",)},
            "num_layers": BLOCKS,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 3]],
            "window_size": 4,
        },
    ),
    "gptj": ("GPTJ", {**GPT2, "rotary_dim": 4}),
    "codegen": ("CodeGen", {**GPT2, "rotary_dim": 4}),
    "gpt_neox": ("GPTNeoX", {**OLD, "rotary_pct": 0.5}),
    "falcon": ("Falcon", {**OLD, "alibi": False, "multi_query": True}),
    "falcon_alibi": ("Falcon", {**OLD, "alibi": True, "new_decoder_architecture": False}),
    "bloom": ("Bloom", {"vocab_size": VOCAB, "hidden_size": HIDDEN, "n_layer": 6, "n_head": 4}),
    "mpt": ("Mpt", {"vocab_size": VOCAB, "d_model": HIDDEN, "n_layers": 6, "n_heads": 4}),
    "olmo": ("Olmo", MODERN),
    "olmo2": ("Olmo2", MODERN),
    "olmo3": ("Olmo3", {**MODERN, "sliding_window": 4}),
    "olmoe": ("Olmoe", {**MODERN, "num_experts": 4, "num_experts_per_tok": 2}),
    "stablelm": ("StableLm", MODERN),
    "granite": ("Granite", {**MODERN, "residual_multiplier": 0.5}),
    "granitemoe": ("GraniteMoe", {**MODERN, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "starcoder2": ("Starcoder2", {**MODERN, "sliding_window": 4}),
    "smollm3": ("SmolLM3", MODERN),
    "cohere": ("Cohere", MODERN),
    "cohere2": ("Cohere2", {**MODERN, "sliding_window": 4}),
    "gpt_oss": (
        "GptOss",
        {**MODERN, "head_dim": 8, "num_local_experts": 4, "sliding_window": 4},
    ),
    "deepseek_v2": ("DeepseekV2", {**MODERN, **DEEPSEEK}),
    "deepseek_v3": ("DeepseekV3", {**MODERN, **DEEPSEEK}),
    "glm": ("Glm", {**MODERN, "head_dim": 8}),
    "glm4": ("Glm4", {**MODERN, "head_dim": 8}),
    "glm4_moe": (
        "Glm4Moe",
        {**MODERN, **{k: v for k, v in DEEPSEEK.items() if "_dim" not in k}, "head_dim": 8},
    ),
    "helium": ("Helium", {**MODERN, "head_dim": 8}),
    "nemotron": ("Nemotron", MODERN),
    "persimmon": ("Persimmon", OLD),
    "exaone4": ("Exaone4", {**MODERN, "sliding_window": 4, "layer_types": MIXED}),
    "ernie4_5": ("Ernie4_5", {**MODERN, "head_dim": 8}),
    "hunyuan_v1_dense": ("HunYuanDenseV1", {**MODERN, "head_dim": 8}),
    "seed_oss": ("SeedOss", {**MODERN, "head_dim": 8}),
    "apertus": ("Apertus", MODERN),
    "arcee": ("Arcee", MODERN),
    "biogpt": ("BioGpt", OLD),
    "xglm": (
        "XGLM",
        {
            **SPECIAL,
            "vocab_size": VOCAB,
            "d_model": HIDDEN,
            "ffn_dim": 64,
            "num_layers": 6,
            "attention_heads": 4,
            "max_position_embeddings": 128,
        },
    ),
    "lfm2": (
        "Lfm2",
        {
            **MODERN,
            "block_multiple_of": 8,
            "layer_types": ["conv", "conv", "full_attention"] * 2,
        },
    ),
    "bamba": ("Bamba", {**MODERN, **MAMBA2, "attn_layer_indices": [2, 5]}),
    "granitemoehybrid": (
        "GraniteMoeHybrid",
        {
            **MODERN,
            **MAMBA2,
            "shared_intermediate_size": 32,
            "num_local_experts": 0,
            "layer_types": ["mamba", "mamba", "attention"] * 2,
        },
    ),
    "lfm2_moe": (
        "Lfm2Moe",
        {
            **MODERN,
            **EXPERTS,
            "layer_types": ["conv", "conv", "full_attention"] * 2,
            "num_dense_layers": 2,
        },
    ),
    "qwen3_5": ("Qwen3_5", {**MODERN, **LINEAR}),
    "gemma4_text": (
        "Gemma4",
        {
            **MODERN,
            "head_dim": 8,
            "global_head_dim": 8,
            "layer_types": MIXED,
            "sliding_window": 4,
            "num_kv_shared_layers": 0,
            "hidden_size_per_layer_input": 0,
        },
    ),
    "openai_gpt": (
        "OpenAIGPTLMHeadModel",
        {"vocab_size": VOCAB, "n_embd": HIDDEN, "n_layer": BLOCKS, "n_head": 4},
    ),
    "ctrl": (
        "CTRLLMHeadModel",
        {"vocab_size": VOCAB, "n_embd": HIDDEN, "n_layer": BLOCKS, "n_head": 4, "dff": 64},
    ),
    "mamba": ("Mamba", {**MODERN, "state_size": 4, "time_step_rank": 4}),
    "falcon_mamba": ("FalconMamba", {**MODERN, "state_size": 4, "time_step_rank": 4}),
    "modernbert_decoder": ("ModernBertDecoder", {**OLD, "local_attention": 8}),
    "dots1": ("Dots1", {**MODERN, **{k: v for k, v in DEEPSEEK.items() if "_dim" not in k}}),
    "llama4_text": (
        "Llama4",
        {
            **MODERN,
            "head_dim": 8,
            "intermediate_size_mlp": 64,
            "num_local_experts": 4,
            "moe_layers": [1, 3, 5],
            "attention_chunk_size": 8,
        },
    ),
}
"""Family -> (prefix of the class names, config)."""

LLAMA_TEXT = {**MODERN, "model_type": "llama"}
IMAGE_TEXT: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "llava": ("Llava", LLAMA_TEXT, CLIP, {"image_token_index": IMAGE_TOKEN}),
    "llava_siglip_qwen2": (
        "Llava",
        {**MODERN, "model_type": "qwen2"},
        SIGLIP,
        {"image_token_index": IMAGE_TOKEN, "vision_feature_select_strategy": "full"},
    ),
    "vipllava": (
        "VipLlava",
        LLAMA_TEXT,
        CLIP,
        {"image_token_index": IMAGE_TOKEN, "vision_feature_layers": [-1, -2]},
    ),
    "llava_next": (
        "LlavaNext",
        LLAMA_TEXT,
        CLIP,
        {"image_token_index": IMAGE_TOKEN, "image_grid_pinpoints": [[16, 16]]},
    ),
    "llava_onevision": (
        "LlavaOnevision",
        {**MODERN, "model_type": "qwen2"},
        SIGLIP,
        {"image_token_index": IMAGE_TOKEN, "video_token_index": 121},
    ),
    "paligemma": (
        "PaliGemma",
        {**MODERN, "model_type": "gemma", "head_dim": 8},
        SIGLIP,
        {"image_token_index": IMAGE_TOKEN, "projection_dim": HIDDEN},
    ),
    "gemma3": (
        "Gemma3",
        {**MODERN, "model_type": "gemma3_text", "head_dim": 8, "sliding_window": 4},
        SIGLIP,
        {"image_token_index": IMAGE_TOKEN, "mm_tokens_per_image": 1},
    ),
    "idefics3": (
        "Idefics3",
        LLAMA_TEXT,
        {
            **{k: v for k, v in SIGLIP.items() if k != "vision_use_head"},
            "model_type": "idefics3_vision",
        },
        {"image_token_id": IMAGE_TOKEN, "scale_factor": 1},
    ),
    "smolvlm": (
        "SmolVLM",
        LLAMA_TEXT,
        {
            **{k: v for k, v in SIGLIP.items() if k != "vision_use_head"},
            "model_type": "smolvlm_vision",
        },
        {"image_token_id": IMAGE_TOKEN, "scale_factor": 1},
    ),
    "qwen2_vl": (
        "Qwen2VL",
        QWEN_VL_TEXT,
        {"depth": 6, "embed_dim": 32, "hidden_size": HIDDEN, "num_heads": 4, "patch_size": 4},
        QWEN_VL_TOKENS,
    ),
    "qwen2_5_vl": (
        "Qwen2_5_VL",
        QWEN_VL_TEXT,
        {
            "depth": 6,
            "hidden_size": 32,
            "intermediate_size": 64,
            "out_hidden_size": HIDDEN,
            "num_heads": 4,
            "patch_size": 4,
        },
        QWEN_VL_TOKENS,
    ),
    "qwen3_vl": (
        "Qwen3VL",
        {**QWEN_VL_TEXT, "head_dim": 8},
        {
            "depth": 6,
            "hidden_size": 32,
            "intermediate_size": 64,
            "out_hidden_size": HIDDEN,
            "num_heads": 4,
            "patch_size": 4,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [1, 3],
        },
        QWEN_VL_TOKENS,
    ),
    "internvl": (
        "InternVL",
        {**MODERN, "model_type": "qwen2"},
        {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "image_size": [16, 16],
            "patch_size": [8, 8],
        },
        {"image_token_id": IMAGE_TOKEN},
    ),
    "mistral3": (
        "Mistral3",
        {**MODERN, "model_type": "mistral", "sliding_window": None},
        {
            "model_type": "pixtral",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "image_size": 16,
            "patch_size": 8,
        },
        {"image_token_index": IMAGE_TOKEN},
    ),
    "aya_vision": (
        "AyaVision",
        {**MODERN, "model_type": "cohere2", "sliding_window": 4},
        SIGLIP,
        {"image_token_index": IMAGE_TOKEN, "adapter_layer_norm_eps": 1e-6},
    ),
    "mllama": (
        "Mllama",
        {**MODERN, "cross_attention_layers": [2, 5]},
        {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 6,
            "num_global_layers": 2,
            "attention_heads": 4,
            "vision_output_dim": 64,
            "image_size": 16,
            "patch_size": 8,
            "intermediate_layers_indices": [1],
        },
        {"image_token_index": IMAGE_TOKEN},
    ),
}
"""Family -> (prefix, text config, vision config, the rest)."""

FAMILIES = [*TEXT, *IMAGE_TEXT]

REPRESENTATIVES = (
    "llama",
    "gpt2",  # learned positions, transposed weights, biases
    "gpt_neox",  # attention and mlp side by side
    "gemma3_text",  # local and global attention, norms after the sublayers
    "deepseek_v3",  # latent attention, experts beside dense blocks
    "qwen3_next",  # linear attention and experts
    "mamba",  # no attention at all
    "llava",
    "mllama",  # blocks that text passes over
)
"""One family for each way a block can be built; with the others `make test-all` goes on."""


def each(families: Iterable[str] = FAMILIES) -> list[Any]:
    """Parameters of a test over families: those that are no representatives are slow."""
    return [
        name if name in REPRESENTATIVES else pytest.param(name, marks=pytest.mark.slow)
        for name in families
    ]


def build(family: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A tiny random transformers model in eval mode.

    Args:
        family: One of ``FAMILIES``.
        seed: Seed of the weights.
        dtype: The dtype of the weights.
        changes: Laid over the (text) config.
    """
    if family in TEXT:
        prefix, text = TEXT[family]
        name = prefix if prefix.endswith("Model") else f"{prefix}ForCausalLM"
        return from_class(name, {**text, **changes}, seed=seed, dtype=dtype)
    prefix, text, vision, rest = IMAGE_TEXT[family]
    settings = {"text_config": {**text, **changes}, "vision_config": vision, **rest}
    return from_class(f"{prefix}ForConditionalGeneration", settings, seed=seed, dtype=dtype)


def from_class(
    name: str, settings: dict[str, Any], *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """A model of a transformers class, with weights that matter."""
    cls = getattr(transformers, name)
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = cls(cls.config_class(**settings))
        for parameter in module.parameters():
            if parameter.dim() >= 2:
                torch.nn.init.normal_(parameter, 0.0, 0.15)
    return module.to(dtype).eval().requires_grad_(False)


def model(family: str = "llama", **options: Any) -> Model:
    """A tiny random ``Model``; options as for ``build``."""
    return Model.dense(build(family, **options))


def ids(batch: int = 2, seq: int = 12, *, seed: int = 0) -> torch.Tensor:
    """Token ids ``[batch, seq]``, none of them special."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, 100, (batch, seq), generator=generator)


@torch.no_grad()
def own_words(model: Model, batch: int, seq: int) -> torch.Tensor:
    """Text that the model expects, ``[batch, seq]``, so that what it lacks costs it something."""
    words = ids(batch, 1)
    while words.shape[1] < seq:
        following = model.module(input_ids=words).logits[:, -1:].argmax(-1)
        words = torch.cat([words, following], dim=1)
    return words


def save_llama(directory: Path, tokenizer: Any, **sizes: int) -> None:
    """Write a random Llama, embeddings tied, for a tokenizer, and the tokenizer with it."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
        **sizes,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def living_tensors() -> int:
    """Count the tensors that something still holds."""
    gc.collect()
    return sum(issubclass(type(found), torch.Tensor) for found in gc.get_objects())
