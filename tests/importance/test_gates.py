"""Gates of units are learned together, by the loss, under a budget."""

import pytest
import torch

from fusegpt.importance import gates as module
from fusegpt.importance.gates import opened, shifted
from fusegpt.importance.losses import sequence_loss
from fusegpt.models.structure.branches import parameters_of
from tests import tiny


def loss_of(model, windows):
    logits = [model.module(row).logits for row in windows.split(1)]
    pairs = zip(logits, windows.split(1), strict=True)
    return sum(sequence_loss(one.double(), row).item() for one, row in pairs) / len(windows)


def test_half_a_gate_lets_half_through():
    learned = torch.tensor([1.0, 0.0, -2.0, 0.1**0.5], dtype=torch.float64)
    assert opened(learned, 0.1).tolist() == pytest.approx([1 / 1.1, 0, 0, 0.5])


@pytest.mark.parametrize("asked", [0.05, 0.4, 0.9])
def test_gates_move_alike_until_they_let_the_asked_part_through(asked):
    learned = torch.tensor([1.0, 0.2, -0.5, 0.9], dtype=torch.float64)
    size = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    moved = shifted(learned, size, asked, 0.1)
    assert (size @ opened(moved, 0.1)).item() == pytest.approx(asked, rel=1e-9)
    assert (moved - learned).std().item() == pytest.approx(0, abs=1e-12)


@torch.no_grad()
def test_the_slope_of_an_mlps_gate_is_that_of_the_loss_itself():
    """By differences of losses where the mlp's last matrix is scaled: no gate is involved."""
    windows, small = tiny.ids(2, 12), 1e-2  # losses are float32
    model = tiny.model("llama", dtype=torch.float64)
    units = model.units("mlp")
    found = module._slope(model, [windows], units, torch.ones(6, dtype=torch.float64))
    losses = []
    for factor in (1 + small, 1 - small):
        other = tiny.model("llama", dtype=torch.float64)
        other.block(2).mlp.down_proj.weight.mul_(factor)
        losses.append(loss_of(other, windows))
    assert found[2].item() == pytest.approx((losses[0] - losses[1]) / (2 * small), rel=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["block", "attention"])
def test_a_shut_gate_is_a_removed_unit_and_an_open_one_a_whole_one(kind):
    model = tiny.model("gpt_neox")
    units = model.units(kind)
    dense = model.module(tiny.ids()).logits
    through = torch.ones(6)
    with module._gated(model, units, through):
        torch.testing.assert_close(model.module(tiny.ids()).logits, dense)
    through[3] = 0
    with module._gated(model, units, through):
        shut = model.module(tiny.ids()).logits
    other = tiny.model("gpt_neox")
    own = parameters_of(other, units[3])
    for name, parameter in own.items():
        if kind == "block" and "h_to_h" not in name and "dense" not in name:
            continue
        parameter.zero_()
    torch.testing.assert_close(shut, other.module(tiny.ids()).logits)


def test_blocks_that_return_a_list_are_faded_like_others():
    model, windows = tiny.model("openai_gpt"), [tiny.ids()]
    found = module.gates(model, windows, model.units(), module.Gates(steps=2))
    assert len(set(found.tolist())) == 6


def test_a_unit_that_adds_nothing_has_no_slope_and_others_have():
    model = tiny.model("llama")
    model.block(3).mlp.down_proj.weight.data.zero_()
    found = module._slope(model, [tiny.ids()], model.units("mlp"), torch.full((6,), 0.9).double())
    assert found[3] == 0 and (found.abs() > 0).sum() == 5
