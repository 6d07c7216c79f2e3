"""What the module for transformers' Auto classes promises on its own."""

import pytest
import torch

from fusegpt.errors import ArchitectureError
from fusegpt.models.model import Model
from fusegpt.models.structure.branches import find_branches
from fusegpt.models.sublayers import Removed, SublayersConfig, cache_places
from fusegpt.models.surgery.removal import remove
from fusegpt.units import Unit
from tests import tiny


def test_living_attentions_take_the_first_places_of_their_kind():
    assert cache_places(["x"] * 4, {0, 2}) == {1: 0, 3: 1}
    kinds = ["sliding", "sliding", "full", "sliding", "full"]
    assert cache_places(kinds, {0, 2}) == {1: 0, 3: 1, 4: 2}
    assert cache_places(kinds, set()) == {place: place for place in range(5)}


def test_what_stands_for_a_removed_module_has_no_weights_and_returns_as_much():
    hidden = torch.randn(2, 3, 4)
    zeros, none = Removed(2)(hidden_states=hidden, attention_mask=None)
    assert none is None and zeros.shape == hidden.shape and not zeros.any()
    assert Removed(0, zero=False)(hidden) is hidden
    assert not list(Removed().parameters()) + list(Removed().buffers())


def test_a_configuration_of_an_unknown_architecture_is_refused_in_one_line():
    with pytest.raises(ValueError, match="must have the entry removed_sublayers"):
        SublayersConfig.from_dict({"model_type": "fusegpt_sublayers"})
    entry = {"base_model_type": "llama", "base_architecture": "LamaForCausalLM"}
    with pytest.raises(ValueError, match="has no LamaForCausalLM"):
        SublayersConfig.from_dict({"removed_sublayers": entry})


def test_a_model_whose_class_is_not_of_transformers_keeps_its_halves():
    module = tiny.build("llama")
    module.__class__ = type("MineForCausalLM", (type(module),), {})
    model = Model.dense(module)
    before = module(tiny.ids()).logits
    with pytest.raises(ArchitectureError, match=r"only whole blocks can go; .*no MineForCausalLM"):
        remove(model, Unit("mlp", 1))
    assert torch.equal(module(tiny.ids()).logits, before) and not model.lacking


def test_sublayers_that_add_nothing_yet_are_found():
    model = tiny.model("llama")
    model.block(0).self_attn.o_proj.weight.data.zero_()
    model.block(0).mlp.down_proj.weight.data.zero_()
    found = find_branches(model, 0).sublayers
    assert (found["attention"].zero, found["mlp"].zero) == ({"self_attn": 2}, {"mlp": 0})
