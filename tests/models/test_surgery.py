from __future__ import annotations

import pytest
import torch

from fusegpt.errors import ArchitectureError
from fusegpt.models.surgery.removal import Unit, remove, skip
from tests import tiny


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def block(*indices):
    return [Unit("block", index) for index in indices]


def logits(model):
    return model.module(tiny.ids()).logits


def test_numbers_and_counts_follow():
    model = tiny.model("gemma3_text")
    types = model.text_config.layer_types
    remove(model, *block(1, 4))
    assert model.text_config.num_hidden_layers == 4
    assert model.text_config.layer_types == [types[i] for i in (0, 2, 3, 5)]
    assert [b.self_attn.layer_idx for b in model.blocks] == [0, 1, 2, 3]


def test_skips_nest_and_come_undone_after_an_error():
    model = tiny.model()
    dense, config = logits(model), model.module.config.to_json_string()
    with skip(model, block(1)):
        without = logits(model)
        with pytest.raises(RuntimeError, match="stop"), skip(model, block(4)):
            assert model.kept == [0, 2, 3, 5]
            raise RuntimeError("stop")
        assert torch.equal(logits(model), without)
    assert torch.equal(logits(model), dense)
    assert model.module.config.to_json_string() == config
    assert [b.self_attn.layer_idx for b in model.blocks] == list(range(6))


def test_cached_generation_works_while_skipping():
    model = tiny.model()
    with skip(model, block(2)):
        out = [
            model.module.generate(
                tiny.ids(),
                attention_mask=torch.ones_like(tiny.ids()),
                max_new_tokens=5,
                do_sample=False,
                use_cache=use_cache,
            )
            for use_cache in (True, False)
        ]
    assert torch.equal(*out)


def test_surgery_does_not_touch_the_random_state():
    model = tiny.model()
    before = torch.get_rng_state()
    remove(model, *block(2))
    assert torch.equal(torch.get_rng_state(), before)


def test_removal_forgets_the_fusions_of_the_removed_block_alone():
    model = tiny.model()
    model.fused = {"blocks.1.mlp.up_proj.weight": None, "blocks.12.x": None}
    remove(model, *block(1))
    assert list(model.fused) == ["blocks.12.x"]


@pytest.mark.parametrize(
    "units, message",
    [
        ([Unit("attention", 6)], "attention 6: must be a remaining sublayer, removed are none"),
        ([Unit("attention", i) for i in range(6)], "the last attention of its kind must stay"),
        ([Unit("mlp", 1), *block(2)], "block 2: cannot go together with sublayers"),
        (block(6), r"block 6: must be a remaining block, remaining are \[0, 1, 2, 3, 4, 5\]"),
        (block(*range(6)), "6 blocks: at least one block must stay"),
    ],
)
def test_impossible_units_are_refused(units, message):
    model = tiny.model()
    with pytest.raises(ArchitectureError, match=message):
        remove(model, *units)
    assert model.kept == [0, 1, 2, 3, 4, 5]


def test_a_number_that_is_not_the_blocks_place_is_refused_unchanged():
    model = tiny.model()
    model.blocks[4].self_attn.layer_idx = 7
    with pytest.raises(
        ArchitectureError, match="block 4, self_attn: layer_idx must be its place 4"
    ):
        remove(model, *block(1))
    assert [b.self_attn.layer_idx for b in model.blocks] == [0, 1, 2, 3, 7, 5]
    assert model.text_config.num_hidden_layers == 6
