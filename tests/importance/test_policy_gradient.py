"""Learned probabilities: projection and estimate against what can be enumerated, and one model."""

from itertools import product

import pytest
import torch

from fusegpt.importance.drawn import PolicyGradient
from fusegpt.importance.policy_gradient import learn, policy_gradient, project
from fusegpt.models.surgery.removal import remove
from fusegpt.units import Unit
from tests import tiny

SETTINGS = PolicyGradient(kept=0.6, samples=4, rounds=60, learning_rate=0.05)


def interacting(place, present):
    """A loss of five units in which the best set of three is not that of the single best ones."""
    gone = ~present
    alone = torch.tensor([0.1, 0.4, 1.2, 1.3, 0.5], dtype=torch.float64)
    pairs = 2.0 * (gone[0] & gone[1]) + 0.1 * place
    return (alone * gone).sum().item() + float(pairs)


def best_set(size):
    masks = [torch.tensor(m) for m in product([True, False], repeat=5) if sum(m) == size]
    return min(masks, key=lambda mask: interacting(0, mask))


def test_it_finds_the_set_that_enumeration_finds():
    keep = learn(interacting, 5, 2, SETTINGS, seed=0)
    expected = best_set(3)
    assert expected.tolist() != [False, False, True, True, True]  # removing the two cheapest
    assert set(keep.argsort()[:2].tolist()) == set((~expected).nonzero().flatten().tolist())
    assert keep.sum().item() == pytest.approx(3.0)


def test_equal_seeds_draw_equal_sub_networks_and_the_budget_is_kept():
    few = SETTINGS.model_copy(update={"rounds": 6})
    seen = {}
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        drawn = seen[name] = []
        learn(lambda place, m, d=drawn: d.append((place, *m.tolist())) or sum(m), 5, 3, few, seed)
    assert seen["one"] == seen["same"] != seen["other"]
    assert len(seen["one"]) == 6 * 4 * 3  # rounds x samples for each of three sequences


def test_the_first_step_is_the_published_update():
    """One step from p: p - rate / (K-1) * sum_k (L_k - mean L) (m_k - p) / sqrt(p (1 - p))."""
    one = PolicyGradient(kept=0.6, samples=3, rounds=1, learning_rate=0.01)
    masks = []

    def loss(place, present):
        masks.append(present.double())
        return interacting(place, present)

    keep = learn(loss, 5, 1, one, seed=0)
    losses = [interacting(0, mask.bool()) for mask in masks]
    step = sum(
        (value - sum(losses) / 3) * (mask - 0.6) / (0.6 * 0.4) ** 0.5
        for value, mask in zip(losses, masks, strict=True)
    )
    moved = 0.6 - 0.01 * step / 2
    torch.testing.assert_close(keep, moved - moved.mean() + 0.6, rtol=1e-5, atol=1e-6)


def test_the_projection_is_nearer_than_any_other_point_that_is_allowed():
    draw = torch.Generator().manual_seed(0)
    for total in (0.5, 2.0, 4.9):
        values = torch.randn(7, generator=draw, dtype=torch.float64) * 2
        near = project(values, total)
        assert near.sum().item() == pytest.approx(total) and ((near >= 0) & (near <= 1)).all()
        for _ in range(20):
            other = torch.rand(7, generator=draw, dtype=torch.float64)
            other = project(other, total)  # any allowed point
            assert ((values - near) * (other - near)).sum() <= 1e-9


def test_losses_are_those_of_pruned_models_and_a_block_that_adds_nothing_goes_first():
    model = tiny.model("llama")
    block = model.block(3)
    block.self_attn.o_proj.weight.data.zero_()
    block.mlp.down_proj.weight.data.zero_()
    words = tiny.own_words(model, 2, 10)
    settings = PolicyGradient(rounds=16, samples=8, learning_rate=0.05)
    keep = policy_gradient(model, [words], model.units(), settings, seed=0)
    assert keep.argmin() == 3


@pytest.mark.parametrize("gone", [Unit("block", 2), Unit("attention", 2), Unit("mlp", 2)])
def test_a_sub_network_is_the_model_without_its_units(monkeypatch, gone):
    model, pruned = tiny.model("llama"), tiny.model("llama")
    tokens, found = tiny.ids(1, 10), []
    units = model.units(gone.kind)
    mask = torch.tensor([unit != gone for unit in units])
    monkeypatch.setattr(
        "fusegpt.importance.policy_gradient.learn",
        lambda loss, *_: found.append(loss(0, mask)) or torch.zeros(len(units)),
    )
    policy_gradient(model, [tokens], units, seed=0)
    remove(pruned, gone)
    losses = [one.module(tokens, labels=tokens).loss.item() for one in (pruned, model)]
    assert found[0] == pytest.approx(losses[0] - losses[1], abs=1e-5)
