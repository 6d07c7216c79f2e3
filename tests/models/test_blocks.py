from __future__ import annotations

import pytest
import torch
from torch import nn

from fusegpt.errors import ArchitectureError
from fusegpt.models.blocks import find_blocks, text_config
from tests import tiny


def test_a_vision_tower_of_equal_depth_is_not_taken():
    module = tiny.build("llava")
    found = find_blocks(module)
    assert found.blocks is module.model.language_model.layers
    assert found.owner is module.model.language_model
    assert found.name == "layers"


def test_of_two_lists_at_one_depth_the_heavier_is_taken():
    module = tiny.build("llama")
    module.model.side = nn.ModuleList(nn.Linear(2, 2) for _ in range(6))
    assert find_blocks(module).blocks is module.model.layers


def test_a_list_without_weights_is_no_block_list():
    module = tiny.build("llama")
    module.model.layers = nn.ModuleList(nn.Identity() for _ in range(6))
    with pytest.raises(ArchitectureError, match="no list of 6 blocks below its decoder"):
        find_blocks(module)


def test_a_config_without_a_number_of_blocks_is_refused():
    module = tiny.build("llama")
    object.__setattr__(text_config(module), "num_hidden_layers", None)
    with pytest.raises(ArchitectureError, match="must state num_hidden_layers, got None"):
        find_blocks(module)


def test_the_text_config_is_the_decoders_own_object():
    module = tiny.build("llava")
    assert text_config(module) is module.model.language_model.config
    assert torch.is_tensor(module.lm_head.weight)
