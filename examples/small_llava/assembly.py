"""A LLaVA put together from a language model, a vision tower and a fresh projector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    CLIPImageProcessorPil,
    CLIPVisionModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from fusegpt.data.tokens import load_tokenizer
from fusegpt.errors import ArchitectureError
from pictures import SIZE
from tower import PATCH

__all__ = ["IMAGE_TOKEN", "IMAGE_TOKENS", "assemble", "make_processor"]

IMAGE_TOKEN = "<image>"
IMAGE_TOKENS = (SIZE // PATCH) ** 2
"""How many places one picture takes in the text."""


def assemble(
    directory: Path, tower: CLIPVisionModel
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Join a language model's directory and a tower; only the projector is new.

    Args:
        directory: A plain transformers directory of a model in Llama's layout.
        tower: Becomes part of the result.

    Returns:
        The model in float32 and its processor.

    Raises:
        ArchitectureError: The language model's weights do not fit LLaVA's layout.
    """
    tokenizer = load_tokenizer(directory)
    tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
    language = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, local_files_only=True
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of the new token's row
        language.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=language.config,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",  # drops the class token
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(config)
    _fill(model, language, tower)
    model.generation_config = language.generation_config
    model.generation_config.pad_token_id = tokenizer.eos_token_id
    return model.eval(), make_processor(tokenizer)


def _fill(model: Any, language: Any, tower: CLIPVisionModel) -> None:
    parts = {"model.vision_tower.": tower, "model.language_model.": language.get_decoder()}
    state = {
        prefix + name: tensor
        for prefix, part in parts.items()
        for name, tensor in part.state_dict().items()
    }
    state["lm_head.weight"] = language.get_output_embeddings().weight
    result = model.load_state_dict(state, strict=False)
    missing = [name for name in result.missing_keys if ".multi_modal_projector." not in name]
    if missing or result.unexpected_keys:
        raise ArchitectureError(
            f"the language model must have Llama's layout; "
            f"missing {missing[:3]}, unexpected {result.unexpected_keys[:3]}"
        )
    model.tie_weights()


def make_processor(tokenizer: Any) -> LlavaProcessor:
    """The processor for pictures of 32 x 32: no torchvision, pixels to [-1, 1]."""
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.chat_template = None  # taught to answer plain questions
    images = CLIPImageProcessorPil(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=1,  # the class token
    )
