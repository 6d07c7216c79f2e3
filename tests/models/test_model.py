from __future__ import annotations

import pytest
import torch

from fusegpt.errors import ArtifactError
from fusegpt.models.model import split_name
from fusegpt.models.surgery.removal import remove
from fusegpt.units import Unit
from tests import tiny


def test_blocks_keep_their_dense_index():
    model = tiny.model()
    fifth = model.blocks[5]
    remove(model, Unit("block", 2))

    assert model.block(5) is fifth
    assert model.position(5) == 4
    assert model.units() == [Unit("block", i) for i in (0, 1, 3, 4, 5)]
    assert model.units("mlp")[2] == Unit("mlp", 3)
    name = "blocks.5.mlp.up_proj.weight"
    assert model.parameter(name) is fifth.mlp.up_proj.weight


def test_parameters_are_told_apart_by_structure():
    model = tiny.model("qwen2")
    assert sorted(model.biases(0)) == [f"self_attn.{x}_proj.bias" for x in "kqv"]
    assert sorted(model.norms(0)) == ["input_layernorm.weight", "post_attention_layernorm.weight"]
    assert len(model.matrices(0)) == 7
    assert model.matrices(0)["mlp.up_proj.weight"] is model.blocks[0].mlp.up_proj.weight


@pytest.mark.parametrize(
    "family, name, axes",
    [
        ("gpt2", "attn.c_attn.weight", 2),
        ("mixtral", "mlp.experts.gate_up_proj", 3),
        ("falcon", "self_attention.dense.weight", 2),
    ],
)
def test_unusual_matrices_count(family, name, axes):
    assert tiny.model(family).matrices(0)[name].dim() == axes


def test_inputs_become_keyword_arguments_of_the_models_dtype():
    model = tiny.model(dtype=torch.bfloat16)
    assert torch.equal(model.inputs(tiny.ids())["input_ids"], tiny.ids())
    given = model.inputs({"input_ids": tiny.ids(), "pixel_values": torch.zeros(1)})
    assert given["input_ids"].dtype == torch.int64
    assert given["pixel_values"].dtype == torch.bfloat16


def test_a_wrong_name_is_refused():
    with pytest.raises(ArtifactError, match=r"'layers\.1\.x': must be named blocks"):
        split_name("layers.1.x")


def test_a_missing_tokenizer_is_one_line(tmp_path):
    model = tiny.model()
    model.source = tmp_path
    with pytest.raises(ArtifactError, match="no tokenizer here"):
        _ = model.tokenizer
