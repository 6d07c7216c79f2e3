"""Shapley: equal to enumerating every sub-network of a four-block model."""

import itertools

import pytest
import torch

from fusegpt.errors import ConfigError
from fusegpt.importance.drawn import Shapley
from fusegpt.importance.shapley import shapley
from fusegpt.models.surgery.removal import remove, skip
from fusegpt.units import Unit
from tests import tiny
from tests.quick import slow

LOGITS = Shapley(target="logits")


@pytest.fixture
def model():
    """Four blocks, and two sequences."""
    model = tiny.model("llama")
    remove(model, Unit("block", 0), Unit("block", 5))
    return model


@torch.no_grad()
def logits_without(model, tokens, gone):
    with skip(model, gone):
        return model.module(input_ids=tokens, use_cache=False).logits


def value(model, tokens, gone, target):
    logits = logits_without(model, tokens, gone)[:, :-1].double()
    if target == "loss":
        chosen = logits.log_softmax(-1).gather(-1, tokens[:, 1:, None])
        return -chosen.mean()
    whole = model.module(input_ids=tokens, use_cache=False).logits[:, :-1].double()
    return (logits - whole).pow(2).sum(-1).sqrt().mean()


@torch.no_grad()
def enumerated(model, tokens, size, target):
    """mean(v | absent) - mean(v | present) over all sets of ``size`` absent units."""
    units = model.units()
    sets = list(itertools.combinations(units, size))
    values = [
        torch.stack([value(model, row, list(gone), target) for row in tokens.split(1)]).mean()
        for gone in sets
    ]

    def mean(chosen):
        return torch.stack(chosen).mean()

    return torch.stack(
        [
            mean([v for v, gone in zip(values, sets, strict=True) if unit in gone])
            - mean([v for v, gone in zip(values, sets, strict=True) if unit not in gone])
            for unit in units
        ]
    )


@pytest.mark.parametrize("target", ["loss", "logits"])
def test_leave_one_out_is_exact(model, target):
    tokens = tiny.ids(2, 10)
    scores = shapley(model, [tokens], model.units(), Shapley(target=target), seed=0)
    torch.testing.assert_close(scores, enumerated(model, tokens, 1, target), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", ["loss", slow("logits")])
def test_sampled_sub_networks_approach_the_enumeration_of_all(model, target):
    tokens = tiny.ids(2, 10)
    exact = enumerated(model, tokens, 2, target)
    settings = {"target": target, "subnetworks": "sampled", "kept": 0.5}
    details = {}
    many = Shapley(samples=150, **settings)
    scores = shapley(model, [tokens], model.units(), many, seed=0, details=details)
    few = shapley(model, [tokens], model.units(), Shapley(samples=4, **settings), seed=0)
    spread = exact.max() - exact.min()
    assert (scores - exact).abs().max() < 0.12 * spread
    assert (scores - exact).norm() < (few - exact).norm()


def test_standard_errors_of_leave_one_out_are_those_of_a_mean_over_sequences(model):
    tokens = tiny.ids(5, 10)
    details = {}
    shapley(model, [tokens], model.units(), seed=0, details=details)
    alone = torch.stack(
        [shapley(model, [row], model.units(), seed=0) for row in tokens.split(1)]
    )  # [sequences, units]
    torch.testing.assert_close(details["standard_error"], alone.std(0) / 5**0.5)


def test_a_single_sequence_has_no_standard_error(model):
    details = {}
    shapley(model, [tiny.ids(1, 8)], model.units(), seed=0, details=details)
    assert details["standard_error"].isnan().all()


def test_standard_errors_cover_the_spread_over_seeds(model):
    tokens = tiny.ids(6, 8)
    runs, errors = [], []
    for seed in range(8):
        details = {}
        runs.append(shapley(
            model, [tokens], model.units(), Shapley(subnetworks="sampled", samples=4),
            seed=seed, details=details,
        ))  # fmt: skip
        errors.append(details["standard_error"])
    ratio = torch.stack(runs).std(0) / torch.stack(errors).mean(0)
    assert (ratio < 2.5).all()


def test_the_seed_decides_the_draw_and_batches_do_not(model):
    tokens = tiny.ids(4, 8)
    settings = Shapley(subnetworks="sampled", samples=3)
    one = shapley(model, [tokens], model.units(), settings, seed=1)
    split = shapley(model, list(tokens.split(2)), model.units(), settings, seed=1)
    other = shapley(model, [tokens], model.units(), settings, seed=2)
    assert torch.equal(one, split)
    assert not torch.equal(one, other)


def test_the_original_model_can_be_what_logits_are_compared_with(model):
    tokens = tiny.ids(2, 8)
    same = shapley(model, [tokens], model.units(), LOGITS, seed=0, original=model)
    own = shapley(model, [tokens], model.units(), LOGITS, seed=0)
    dense = tiny.model("llama")
    other = shapley(model, [tokens], model.units(), LOGITS, seed=0, original=dense)
    assert torch.equal(same, own)
    assert not torch.allclose(own, other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kept": 0.75, "samples": 2}, "is in all 2 drawn sub-networks"),
        ({"kept": 0.25, "samples": 1}, "drawn sub-networks, must be in some only; raise samples"),
        ({"kept": 0.0, "samples": 5}, "block 1 is absent from all 5 drawn sub-networks"),
    ],
)
def test_a_draw_that_says_nothing_about_a_unit_is_refused(model, settings, message):
    drawn = Shapley(subnetworks="sampled", **settings)
    with pytest.raises(ConfigError, match=message):
        shapley(model, [tiny.ids(1, 8)], model.units(), drawn, seed=0)
