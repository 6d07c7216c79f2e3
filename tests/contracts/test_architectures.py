"""What must hold for every architecture; a new line in ``tests/tiny.py`` joins by itself."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from fusegpt.errors import ArchitectureError
from fusegpt.models.checkpoints.load import load
from fusegpt.models.checkpoints.save import save
from fusegpt.models.model import Model
from fusegpt.models.structure.replay import head_logits, record, run_blocks
from fusegpt.models.surgery.removal import remove, skip
from fusegpt.runtime import quiet
from fusegpt.units import Unit
from tests import tiny

DROPPED = [Unit("block", 1), Unit("block", 4)]
families = pytest.mark.parametrize("family", tiny.each())


class PassThrough(nn.Module):
    """A block that does nothing, for the comparison: it knows nothing of configs."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.__dict__["block"] = block

    def __getattr__(self, name):
        return getattr(self.__dict__["block"], name)

    def forward(self, *args, **kwargs):
        output = self.__dict__["block"](*args, **kwargs)
        hidden = args[0] if args else kwargs["hidden_states"]
        return (hidden, *output[1:]) if isinstance(output, (tuple, list)) else hidden


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad(), quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own, e.g. about slow kernels
        yield


def logits(model: Model) -> torch.Tensor:
    return model.module(tiny.ids(), use_cache=False).logits


def test_there_are_at_least_45_families():
    assert len(set(tiny.FAMILIES)) >= 45


@families
def test_removing_equals_bypassing_and_skipping(family):
    model = tiny.model(family)
    dense = logits(model)
    reference = Model.dense(copy.deepcopy(model.module))
    for unit in DROPPED:
        reference.block_list[unit.index] = PassThrough(reference.block_list[unit.index])
    bypassed = logits(reference)

    with skip(model, DROPPED):
        assert torch.equal(logits(model), bypassed)
        assert model.kept == [0, 2, 3, 5]
    assert torch.equal(logits(model), dense)
    assert model.kept == [0, 1, 2, 3, 4, 5]

    for unit in DROPPED:
        remove(model, unit)
    assert torch.equal(logits(model), bypassed)
    assert not torch.allclose(bypassed, dense, atol=1e-2)
    assert (model.kept, model.removed, model.num_blocks) == ([0, 2, 3, 5], DROPPED, 6)


@families
def test_cached_generation_equals_uncached_and_a_reload_is_the_same_to_the_last_bit(
    family, tmp_path
):
    model = tiny.model(family)
    remove(model, *DROPPED)
    tokens = [
        model.module.generate(
            tiny.ids(),
            attention_mask=torch.ones_like(tiny.ids()),
            max_new_tokens=7,
            min_new_tokens=7,
            do_sample=False,
            use_cache=use_cache,
        )
        for use_cache in (True, False)
    ]
    assert torch.equal(*tokens)

    save(model, tmp_path / "pruned", extra={})
    again = load(tmp_path / "pruned", dtype="float32")
    assert (again.kept, again.removed, again.num_blocks) == ([0, 2, 3, 5], DROPPED, 6)
    assert torch.equal(logits(again), logits(model))
    state = again.module.state_dict()
    assert state.keys() == model.module.state_dict().keys()
    assert all(torch.equal(state[name], t) for name, t in model.module.state_dict().items())


@families
def test_replay_of_a_group_and_the_head_are_the_same_to_the_last_bit(family):
    model = tiny.model(family)
    whole = record(model, tiny.ids())
    group = record(model, tiny.ids(), 1, 3)

    assert len(group.calls) == 3
    replayed = run_blocks(model.blocks[1:4], group.calls, group.hidden_in)
    assert torch.equal(replayed, group.hidden_out)
    assert torch.equal(run_blocks(model.blocks, whole.calls, whole.hidden_in), whole.hidden_out)
    assert torch.equal(head_logits(model, tiny.ids(), whole.hidden_out), logits(model))


@families
def test_replay_is_differentiable(family):
    model = tiny.model(family)
    group = record(model, tiny.ids(), 1, 2)
    name, weight = next(iter(model.matrices(1).items()))
    with torch.enable_grad():
        weight.requires_grad_(True)
        hidden = group.hidden_in.clone().requires_grad_(True)
        run_blocks(model.blocks[1:3], group.calls, hidden).sum().backward()

    assert hidden.grad.abs().sum() > 0
    assert weight.grad is not None, name


@families
def test_blocks_of_one_kind_pair_up_by_name_and_shape(family):
    model = tiny.model(family)
    parts = [
        {name: (type(p), tuple(p.shape)) for name, p in model.matrices(i).items()} for i in range(6)
    ]
    kinds = {frozenset((name, shape) for name, (_, shape) in part.items()) for part in parts}
    several = {
        "bamba": 2,  # state space or attention
        "deepseek_v2": 2,  # leading dense blocks, then experts
        "deepseek_v3": 2,
        "glm4_moe": 2,
        "dots1": 2,
        "granitemoehybrid": 2,  # state space or attention
        "lfm2_moe": 3,  # convolution or attention, with experts or without
        "qwen3_5": 2,  # linear or full attention
        "lfm2": 2,  # convolution or attention
        "llama4_text": 2,  # dense or experts
        "mllama": 2,  # text or image blocks
        "qwen3_moe": 2,  # dense or experts
        "qwen3_next": 2,  # linear or full attention
    }
    assert len(kinds) == several.get(family, 1)
    for index in range(6):
        together = [*model.matrices(index), *model.biases(index), *model.norms(index)]
        assert sorted(together) == sorted(n for n, _ in model.block(index).named_parameters())


GEMMA3N = {
    **tiny.MODERN,
    "head_dim": 8,
    "vocab_size_per_layer_input": 128,
    "hidden_size_per_layer_input": 8,
    "laurel_rank": 4,
    "layer_types": tiny.MIXED,
    "activation_sparsity_pattern": [0.0] * 6,
}
REFUSED = {
    "gpt2_invscale": (
        "GPT2LMHeadModel",
        {**tiny.GPT2, "scale_attn_by_inverse_layer_idx": True},
        r"transformer\.h\.2\.attn\.scaling: 0\.0883\d* vs 0\.1178\d*",
    ),
    "qwen2_moe_step2": (
        "Qwen2MoeForCausalLM",
        {**tiny.MODERN, **tiny.EXPERTS, "decoder_sparse_step": 2},
        r"model\.layers\.1\.mlp",
    ),
    "diffllama": ("DiffLlamaForCausalLM", tiny.MODERN, r"self_attn\.lambda_init"),
    "gemma3n_text": (
        "Gemma3nForCausalLM",
        {**GEMMA3N, "num_kv_shared_layers": 2},
        r"set of layer types producing a cache is different",
    ),
    "gemma3n_text_without_sharing": (
        "Gemma3nForCausalLM",
        {**GEMMA3N, "num_kv_shared_layers": 0},
        r"embed_tokens_per_layer\.weight: \(128, 48\) vs \(128, 32\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_model_whose_blocks_depend_on_their_number_is_refused_unchanged(case):
    name, settings, message = REFUSED[case]
    model = Model.dense(tiny.from_class(name, settings))
    config, dense = model.module.config.to_json_string(), logits(model)

    with pytest.raises(ArchitectureError, match=message):
        remove(model, *DROPPED)
    with pytest.raises(ArchitectureError, match=message), skip(model, DROPPED):
        pass

    assert model.module.config.to_json_string() == config
    assert (model.kept, model.removed) == ([0, 1, 2, 3, 4, 5], [])
    assert torch.equal(logits(model), dense)
