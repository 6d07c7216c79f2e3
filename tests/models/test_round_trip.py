from __future__ import annotations

import pytest
import torch
from torch import nn

from fusegpt.errors import ArchitectureError
from fusegpt.models.surgery.round_trip import check_round_trip
from tests import tiny


def test_the_config_of_an_untouched_model_rebuilds_it():
    check_round_trip(tiny.build("llama"))


def test_a_config_that_was_not_shortened_is_noticed():
    module = tiny.build("llama")
    del module.model.layers[5]
    with pytest.raises(ArchitectureError, match=r"model\.layers\.5: nothing vs LlamaDecoderLayer"):
        check_round_trip(module)


def test_a_changed_shape_is_noticed():
    module = tiny.build("llama")
    module.model.layers[2].mlp.up_proj.weight = nn.Parameter(torch.zeros(48, 32))
    with pytest.raises(ArchitectureError, match=r"up_proj\.weight: \(48, 32\) vs \(64, 32\)"):
        check_round_trip(module)


def test_a_changed_attribute_is_noticed():
    module = tiny.build("llama")
    module.model.layers[2].self_attn.scaling = 2.0
    with pytest.raises(ArchitectureError, match=r"layers\.2\.self_attn\.scaling: 2\.0 vs 0\.35"):
        check_round_trip(module)


def test_a_config_that_builds_nothing_is_named():
    module = tiny.build("gemma3_text")
    module.config.num_hidden_layers = 4
    with pytest.raises(ArchitectureError, match="its shortened config builds no model"):
        check_round_trip(module)
