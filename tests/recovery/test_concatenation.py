"""Two neighbours become one block, of the parts of both that matter most."""

import json
from pathlib import Path

import pytest
import torch

from fusegpt.errors import ArchitectureError
from fusegpt.importance.angular_distance import angular_distance
from fusegpt.importance.settings import AngularDistance
from fusegpt.models.structure.channels import find_channels
from fusegpt.models.structure.replay import record
from fusegpt.recovery.closed_form import next_token_loss
from fusegpt.recovery.concatenation import concatenation, divided
from fusegpt.recovery.settings.whole import Concatenation
from fusegpt.units import Unit
from tests import tiny

UNIT = Unit("block", 3)
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "come.json").read_text())


@pytest.fixture
def windows():
    return tiny.ids(4, 12, seed=3)


def test_the_smaller_share_is_rounded_down():
    assert divided(9, 0.5) == (5, 4)
    assert divided(64, 0.3) == (19, 45)
    assert divided(3, 0.9) == (3, 0)
    assert divided(8, 1.0) == (8, 0)
    assert divided(8, 0.0) == (0, 8)


@torch.no_grad()
def test_a_block_is_made_of_rows_of_both_as_computed_by_hand(windows):
    """Straight from the definition, with the names that Llama has, one value at a time."""
    model, plain = tiny.model("llama"), tiny.model("llama")
    inputs, influence = {}, {}
    for index in (2, 3):
        block = plain.block(index)
        for module in (block.self_attn.o_proj, block.mlp.down_proj):
            module.register_forward_hook(
                lambda m, args, out: inputs.__setitem__(m, args[0].double().flatten(0, 1))
            )
        seen = record(plain, windows, index, index)
        cosine = torch.cosine_similarity(seen.hidden_in, seen.hidden_out, dim=-1)
        influence[index] = (1 - cosine).double().mean().item()
    share = influence[2] / (influence[2] + influence[3])
    report = concatenation(model, UNIT, windows, seed=0)
    merged, fewer = model.block(2), int(64 * min(share, 1 - share))
    counts = {2: 64 - fewer if share >= 0.5 else fewer}
    counts[3] = 64 - counts[2]
    rows = []
    for index in (2, 3):
        down = plain.block(index).mlp.down_proj
        weight = [
            sum(abs(x) for x in down.weight[:, c].tolist())
            * sum(abs(x) for x in inputs[down][:, c].tolist())
            for c in range(64)
        ]
        best = sorted(sorted(range(64), key=weight.__getitem__)[64 - counts[index] :])
        rows += [plain.block(index).mlp.up_proj.weight[c] for c in best]
    assert torch.equal(merged.mlp.up_proj.weight, torch.stack(rows))
    group = int(2 * min(share, 1 - share))  # two heads share keys with two others
    assert group == 0
    larger = plain.block(2 if share >= 0.5 else 3).self_attn
    assert torch.equal(merged.self_attn.o_proj.weight, larger.o_proj.weight)
    norms = [plain.block(i).input_layernorm.weight for i in (2, 3)]
    torch.testing.assert_close(merged.input_layernorm.weight, (norms[0] + norms[1]) / 2)
    assert (model.kept, report.fused_into) == ([0, 1, 2, 4, 5], [2])
    assert set(report.changed) == {f"blocks.2.{n}" for n, _ in merged.named_parameters()}


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "phi3", "qwen3", "olmo2"])
def test_merging_with_a_block_that_adds_nothing_is_removing_it(family, windows):
    model, other = tiny.model(family), tiny.model(family)
    for one in (model, other):
        for kind in ("attention", "mlp"):
            last = one.block(3).get_submodule(find_channels(one, 3, kind).last)
            last.weight.zero_()
            if getattr(last, "bias", None) is not None:
                last.bias.zero_()
        if family == "olmo2":  # a norm follows
            one.block(3).post_attention_layernorm.weight.zero_()
            one.block(3).post_feedforward_layernorm.weight.zero_()
        one.block(3).load_state_dict(
            {n: v for n, v in one.block(2).state_dict().items() if "norm" in n or "ln" in n},
            strict=False,
        )
    concatenation(model, UNIT, windows, seed=0)
    for name, value in other.block(2).named_parameters():
        torch.testing.assert_close(model.block(2).get_parameter(name), value)


@torch.no_grad()
@pytest.mark.parametrize("seed", GOLDEN)
def test_a_block_is_the_one_that_the_published_code_makes(seed, windows):
    """What its functions made of the same models and windows, WangFei-2019/CoMe at 7bb695a."""
    model = tiny.model("llama", seed=int(seed), num_key_value_heads=4)
    generator = torch.Generator().manual_seed(int(seed))
    for name, parameter in model.module.named_parameters():
        if "layernorm" in name:
            parameter.copy_(1 + 0.3 * torch.randn(parameter.shape, generator=generator))
    units = model.units()[1:]
    scores = angular_distance(model, [windows], units, AngularDistance(pairs=True))
    chosen = units[scores.argmin()]
    assert [chosen.index - 1, chosen.index] == GOLDEN[seed]["pair"]
    concatenation(model, chosen, windows, seed=0)
    for name, expected in GOLDEN[seed]["sums"].items():
        value = model.block(chosen.index - 1).get_parameter(name).double().flatten()
        places = torch.arange(1, len(value) + 1).remainder(97)
        assert (value * places).sum().item() == pytest.approx(expected, abs=1e-3)


def test_a_search_takes_the_share_with_the_lowest_loss(windows):
    model, halves, plain = (tiny.model("llama") for _ in range(3))
    concatenation(model, UNIT, windows, Concatenation(search=4), seed=0)
    concatenation(halves, UNIT, windows, Concatenation(), seed=0)
    concatenation(plain, UNIT, windows, Concatenation(search=1), seed=0)
    found, ends = next_token_loss(model, windows), next_token_loss(plain, windows)
    assert found <= ends
    assert found <= next_token_loss(halves, windows) + 1e-2


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3", "mamba"])
def test_a_branch_without_channels_is_refused_by_name(family, windows):
    model = tiny.model(family)
    with pytest.raises(ArchitectureError, match=f"{type(model.module).__name__}: (the|block)"):
        concatenation(model, UNIT, windows, seed=0)


def test_the_first_block_has_none_before_it(windows):
    with pytest.raises(ArchitectureError, match=r"no block before block 0 .*protect_first"):
        concatenation(tiny.model("llama"), Unit("block", 0), windows, seed=0)


def test_pairs_are_scored_across_both_and_merged_ones_come_last(windows):
    model = tiny.model("llama")
    settings = AngularDistance(pairs=True)
    units = model.units()
    scores = angular_distance(model, [windows], units, settings)
    runs = angular_distance(model, [windows], units, run=2)
    assert torch.equal(scores[1:], runs)
    assert scores[0] == 2
    assert torch.equal(angular_distance(model, [windows], units[1:], settings), scores[1:])
    concatenation(model, UNIT, windows, seed=0)
    again = angular_distance(model, [windows], model.units(), settings)
    assert [i for i, s in zip(model.kept, again, strict=True) if s >= 1] == [0, 2, 4]
