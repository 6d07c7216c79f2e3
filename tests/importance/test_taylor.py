"""Taylor terms: equal to autograd by hand and to finite differences; nothing is left behind."""

import pytest
import torch

from fusegpt.errors import NumericsError
from fusegpt.importance.taylor import taylor
from fusegpt.models.surgery.removal import remove
from fusegpt.units import Unit
from tests import tiny


def test_scores_are_the_sums_that_autograd_gives_by_hand():
    model = tiny.model("llama")
    tokens = tiny.ids(4, 12)
    scores = taylor(model, [tokens[:3], tokens[3:]], model.units())
    model.module.requires_grad_(True)
    model.module(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
    expected = [
        sum((p.detach() * p.grad).abs().double().sum() for p in block.parameters())
        for block in model.blocks
    ]
    torch.testing.assert_close(scores, torch.stack(expected), rtol=1e-4, atol=1e-6)


def test_a_weights_part_is_what_a_finite_difference_says():
    model = tiny.model("llama", dtype=torch.float64)
    tokens = tiny.ids(2, 8)
    weight = model.block(2).mlp.down_proj.weight

    @torch.no_grad()
    def loss(value):
        weight[3, 5] = value
        log_probabilities = model.module(input_ids=tokens, use_cache=False).logits.log_softmax(-1)
        return -log_probabilities[:, :-1].gather(-1, tokens[:, 1:, None]).mean().item()

    whole = taylor(model, [tokens], [Unit("block", 2)]).item()
    here, step = weight[3, 5].item(), 1e-2  # norms compute in float32
    slope = (loss(here + step) - loss(here - step)) / (2 * step)
    loss(here)
    model.module.requires_grad_(True)
    model.module(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
    terms = sum((p.detach() * p.grad).abs().sum() for p in model.block(2).parameters()).item()
    own = (weight.detach() * weight.grad)[3, 5].abs().item()
    assert abs(here * slope) == pytest.approx(own, rel=1e-2)
    assert whole - (terms - own) == pytest.approx(abs(here * slope), rel=2e-2)


def test_what_required_gradients_before_does_so_after():
    model = tiny.model("llama")
    weight = model.block(1).mlp.up_proj.weight
    weight.requires_grad_(True)
    model.block(4).mlp.down_proj.weight.data.fill_(float("nan"))
    with pytest.raises(NumericsError, match="taylor of block 0: score is nan"):
        taylor(model, [tiny.ids()], model.units())
    assert [p is weight for p in model.module.parameters() if p.requires_grad] == [True]
    assert all(p.grad is None for p in model.module.parameters())


def test_scores_belong_to_dense_indices_after_a_removal():
    model = tiny.model("llama")
    remove(model, Unit("block", 2))
    scores = taylor(model, [tiny.ids()], model.units())
    assert taylor(model, [tiny.ids()], [Unit("block", 4)])[0] == scores[3]


def test_scoring_works_where_gradients_are_off():
    model = tiny.model("llama")
    with torch.no_grad():
        off = taylor(model, [tiny.ids()], model.units())
    assert torch.equal(off, taylor(model, [tiny.ids()], model.units()))
