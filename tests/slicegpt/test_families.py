"""The table of families, and the size that is left."""

from __future__ import annotations

import pytest

from fusegpt.errors import ArchitectureError, ConfigError
from fusegpt.slicegpt.families import FAMILIES, family_of
from fusegpt.slicegpt.width import sliced_width
from tests import tiny

BUILT = {"phi": "phi", "opt": "opt", "mistral": "mistral_swa"}


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_name_of_the_table_is_a_module(kind):
    module = tiny.build(BUILT.get(kind, kind))
    family = family_of(module.config.to_dict())
    decoder = module.get_submodule(family.decoder)

    for name in (*family.embeddings, family.final_norm):
        decoder.get_submodule(name)
    for block in decoder.layers:
        for name in (*family.attention_readers, *family.mlp_readers, *family.mlp):
            block.get_submodule(name)
        for name in (family.attention_writer, family.mlp_writer, family.attention):
            block.get_submodule(name)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "gpt2"}, "here: slicegpt cannot slice 'gpt2'; .*known: llama, mistral"),
        ({"model_type": "lama"}, "did you mean 'llama'"),
        ({}, "cannot slice 'None'"),
        ({"model_type": "opt", "do_layer_norm_before": False}, "needs do_layer_norm_before True"),
        (
            {"model_type": "opt", "hidden_size": 32, "word_embed_proj_dim": 16},
            "as wide as the blocks, 32, got word_embed_proj_dim 16",
        ),
    ],
)
def test_another_family_is_refused_in_one_line(config, message):
    with pytest.raises(ArchitectureError, match=message):
        family_of(config, "here")


@pytest.mark.parametrize(
    ("hidden", "sparsity", "interval", "width"),
    [
        (4096, 0.25, 8, 3072),
        (4096, 0.3, 8, 2864),
        (5120, 0.2, 8, 4096),
        (576, 0.1, 8, 512),
        (576, 0.3, 8, 400),
        (576, 0.3, 1, 403),
        (100, "0.1", 1, 90),
        (33, 0, 8, 33),
    ],
)
def test_the_size_left_is_rounded_down(hidden, sparsity, interval, width):
    assert sliced_width(hidden, sparsity, interval) == width


def test_nothing_left_is_refused():
    with pytest.raises(ConfigError, match=r"0\.9 of a hidden size of 32 leaves nothing"):
        sliced_width(32, 0.9)
