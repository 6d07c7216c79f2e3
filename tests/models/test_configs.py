from __future__ import annotations

import pytest
import torch
from transformers import PretrainedConfig

from fusegpt.errors import ArchitectureError
from fusegpt.models.checkpoints.load import load
from fusegpt.models.checkpoints.save import differences, save
from fusegpt.models.flops import forward_flops
from fusegpt.models.model import Model
from fusegpt.models.structure.configs import shrunken, text_configs
from fusegpt.models.structure.replay import head_logits, record, run_blocks
from fusegpt.models.surgery.removal import remove, skip
from fusegpt.units import Unit
from tests import tiny

KEEP = [0, 2, 3, 5]


def changes(**attributes):
    config = PretrainedConfig()
    config.num_hidden_layers = 6
    for name, value in attributes.items():
        setattr(config, name, value)
    return shrunken(config, 6, KEEP)


def test_the_count_always_follows():
    assert changes() == {"num_hidden_layers": 4}


@pytest.mark.parametrize(
    "name, before, after",
    [
        ("layer_types", list("abcdef"), list("acdf")),
        ("no_rope_layers", [1, 1, 1, 0, 1, 1], [1, 1, 0, 1]),
        ("attention_layers", ("g", "l") * 3, ("g", "g", "l", "l")),
        ("cross_attention_layers", [1, 3], [2]),
        ("mlp_only_layers", [0, 5], [0, 3]),
        ("moe_layers", [1, 3, 5], [2, 3]),
        ("first_k_dense_replace", 2, 1),
        ("max_window_layers", 28, 4),
        ("max_window_layers", 3, 2),
    ],
)
def test_per_block_entries_follow(name, before, after):
    assert changes(**{name: before})[name] == after


@pytest.mark.parametrize(
    "name, value",
    [
        ("eos_token_id", [1, 2, 3, 4, 5, 6]),
        ("architectures", ["a"] * 6),
        ("rope_sections", [1, 2, 3]),
        ("sliding_window", 2),
        ("mlp_only_layers", []),
    ],
)
def test_everything_else_stays(name, value):
    assert name not in changes(**{name: value})


def test_a_decoders_config_is_listed_once():
    module = tiny.build("llava")
    assert text_configs(module) == [module.config.text_config]


@torch.no_grad()
def test_what_single_blocks_have_of_their_own_follows_them(tmp_path):
    """Gemma 4: heads of full attention are larger, which the config says by numbers of blocks."""
    model = tiny.model("gemma4_text", global_head_dim=16)
    whole = record(model, tiny.ids(), keep_states=True)
    hidden = run_blocks(model.blocks[2:], whole.calls[2:], whole.states[1])
    expected = head_logits(model, tiny.ids(), hidden)
    with skip(model, [Unit("block", 4)]):
        assert own(model) == {1: 16, 3: 16, 4: 16}
    assert own(model) == {1: 16, 3: 16, 5: 16}

    remove(model, Unit("block", 1))
    assert own(model) == {2: 16, 4: 16}
    save(model, tmp_path / "pruned", extra={})
    for place in (model, load(tmp_path / "pruned", dtype="float32")):
        assert torch.equal(place.module(tiny.ids(), use_cache=False).logits, expected)
    each = [forward_flops(model, [index], 10, 5) for index in model.kept]
    assert forward_flops(model, model.kept, 10, 5) == sum(each)


def own(model):
    """The sizes of heads that the config says of single blocks."""
    heads = [layer.head_dim for layer in model.text_config.per_layer_config]
    return {place: size for place, size in enumerate(heads) if size != 8}


GRANITE = {
    "text_config": {**tiny.MODERN, "model_type": "granite4_vision_text"},
    "vision_config": {
        "model_type": "clip_vision_model",
        **{"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 4},
        **{"num_attention_heads": 4, "image_size": 16, "patch_size": 4},
    },
    "qformer_config": {
        "model_type": "blip_2_qformer",
        **{"num_hidden_layers": 1, "intermediate_size": 64, "cross_attention_frequency": 1},
        **{"use_qformer_text_input": False, "max_position_embeddings": 64},
    },
    "image_token_index": tiny.IMAGE_TOKEN,
    "image_grid_pinpoints": [[16, 16]],
    "downsample_rate": "1/2",
    "deepstack_layer_map": [[1, 0], [2, 1]],
    "spatial_target_layers": [2, 4],
}


@torch.no_grad()
def test_images_add_before_the_block_that_follows_in_the_dense_model(tmp_path):
    """Granite 4 Vision: the config of the whole model says before which blocks images add."""
    model = Model.dense(tiny.from_class("Granite4VisionForConditionalGeneration", GRANITE))
    ids = torch.tensor([[5, 6, *[tiny.IMAGE_TOKEN] * 10, 7, 8]])
    shown = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    shown["pixel_values"] = torch.randn(1, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    shown["image_sizes"] = torch.tensor([[16, 16]])
    passing = model.block(3).register_forward_hook(lambda block, given, output: given[0])
    expected = model.module(**shown).logits
    passing.remove()

    remove(model, Unit("block", 3))

    save(model, tmp_path / "pruned", extra={})
    for place in (model, load(tmp_path / "pruned", dtype="float32")):
        assert place.module.config.deepstack_layer_map == [(1, 0), (2, 1)]
        assert place.module.config.spatial_target_layers == [2, 3]
        assert torch.equal(place.module(**shown).logits, expected)
    assert differences(model) == []
    for blocks in ([1], [4, 5]):
        with pytest.raises(ArchitectureError, match="each must be a block of its own; keep one"):
            remove(model, *(Unit("block", index) for index in blocks))
    assert model.kept == [0, 1, 2, 4, 5] and model.module.config.spatial_target_layers == [2, 3]
