from __future__ import annotations

import pytest
from transformers import PretrainedConfig

from fusegpt.models.structure.configs import shrunken, text_configs
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
