"""Which pruned models are others for programs that compute a block's kind from its number."""

from __future__ import annotations

import json

import pytest

from fusegpt.models.checkpoints.save import differences
from fusegpt.models.structure.kinds import off_formula, off_scale
from fusegpt.models.suitability import check_structure
from fusegpt.models.surgery.removal import remove
from fusegpt.units import Unit
from tests import tiny

BY_NUMBER = {"smollm3": "no_rope_layers", "gemma3_text_default": "layer_types"}


@pytest.mark.parametrize("family", BY_NUMBER)
def test_a_model_off_the_formula_says_so_and_one_cut_at_its_end_does_not(family):
    cut, end = (tiny.model(family, num_hidden_layers=8) for _ in range(2))
    assert differences(cut) == []
    remove(cut, Unit("block", 1))
    remove(end, Unit("block", 7))
    (sentence,) = differences(cut)
    assert sentence.startswith(f"{BY_NUMBER[family]} is not what the family's formula gives")
    assert differences(end) == []


def test_whole_periods_can_go():
    model = tiny.model("smollm3", num_hidden_layers=8)
    remove(model, *(Unit("block", index) for index in range(4)))
    assert model.text_config.no_rope_layers == [1, 1, 1, 0]
    assert differences(model) == []


@pytest.mark.parametrize(("family", "said"), [("smollm3", 1), ("llama", 0), ("lfm2", 0)])
def test_check_names_families_at_risk(family, said):
    findings = [one for one in check_structure(tiny.model(family)) if one.name == "runtimes"]
    assert len(findings) == said and all(one.passed for one in findings)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mamba", "bamba", "lfm2", "deepseek_v3"])
def test_lists_without_a_formula_by_number_are_never_off(family):
    config = tiny.model(family).text_config
    before = json.dumps(config.to_dict(), default=str)
    assert off_formula(config, [1, 2, 3, 4, 5]) == off_formula(config) == []
    assert json.dumps(config.to_dict(), default=str) == before


def test_a_scale_that_llama_cpp_does_not_read_is_said_of_pruned_models():
    plain = tiny.model("gemma3_text_default")
    own = tiny.model("gemma3_text_default", query_pre_attn_scalar=24)
    assert off_scale(plain.text_config) is None
    assert differences(own) == []  # whole, llama.cpp knows it by its number of blocks
    remove(own, Unit("block", 5))
    (sentence,) = differences(own)
    assert sentence.startswith("query_pre_attn_scalar is 24, the size of a head ")
    said = [one.text for one in check_structure(own) if one.name == "runtimes"]
    assert any("query_pre_attn_scalar is 24" in text for text in said)


def test_where_images_add_between_blocks_is_said_of_pruned_models():
    """Qwen3-VL adds what it saw behind the first blocks, by their places."""
    early, late = tiny.model("qwen3_vl"), tiny.model("qwen3_vl")
    assert differences(early) == []
    remove(early, Unit("block", 1))
    remove(late, Unit("block", 2))
    (sentence,) = differences(early)
    assert sentence.startswith("images also add to the hidden states between blocks")
    assert differences(late) == []
