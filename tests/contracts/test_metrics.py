"""What every importance metric must hold to; new lines of the table join by themselves."""

import pytest
import torch

from fusegpt.importance import METRICS
from fusegpt.models.surgery.removal import remove
from fusegpt.units import KINDS, Unit
from tests import required, tiny
from tests.quick import each, slow

DATA_FREE = {"last_blocks", "random", "given"}
"""Metrics that do not look at the model, and so cannot know that a unit adds nothing."""
BLIND = DATA_FREE | {"policy_gradient"}
"""And those that know it only after many more draws than a test of all metrics can take."""

SIGNED = {"gates"}
"""Metrics that put a unit which the text is better without below one that adds nothing."""


def measure(name, model, batches, granularity="block"):
    settings = METRICS[name].schema(**required.METRICS.get(name, {}))
    given = {"seed": 0} if "seed" in settings.takes else {}
    return METRICS[name].load()(model, batches, model.units(granularity), settings, **given)


@pytest.fixture(params=METRICS)
def metric(request):
    return request.param


@pytest.fixture(params=each(KINDS, quick=("block", "mixed")))  # mixed has both others
def granularity(request):
    return request.param


def test_scores_are_one_finite_float64_per_unit(metric, granularity):
    model = tiny.model("llama")
    scores = measure(metric, model, [tiny.ids()], granularity)
    assert scores.shape == (12 if granularity == "mixed" else 6,)
    assert scores.dtype == torch.float64
    assert scores.device.type == "cpu"
    assert torch.isfinite(scores).all()


def test_the_model_is_bit_unchanged(metric, granularity):
    model = tiny.model("llama")
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    structure, config = repr(model.module), model.module.config.to_dict()
    measure(metric, model, [tiny.ids()], granularity)
    after = model.module.state_dict()
    assert (repr(model.module), model.module.config.to_dict()) == (structure, config)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(p.requires_grad or p.grad is not None for p in model.module.parameters())


def test_it_leaves_no_tensor_behind(metric):
    measure(metric, tiny.model("llama"), [tiny.ids()])  # what is made once may stay
    before = tiny.living_tensors()
    measure(metric, tiny.model("llama"), [tiny.ids()])
    assert tiny.living_tensors() <= before


def test_a_block_that_adds_nothing_scores_lowest(metric):
    if metric in BLIND | SIGNED:
        pytest.skip("adding nothing is not the least that it knows")
    model = tiny.model("llama")
    block = model.block(3)
    block.self_attn.o_proj.weight.data.zero_()
    block.mlp.down_proj.weight.data.zero_()
    assert measure(metric, model, [tiny.own_words(model, 4, 12)]).argmin() == 3


@pytest.mark.parametrize(
    "kind, together",
    [("attention", True), ("mlp", False), slow("attention", False), slow("mlp", True)],
)
def test_a_sublayer_that_adds_nothing_scores_lowest(metric, kind, together):
    if metric in BLIND | SIGNED:
        pytest.skip("adding nothing is not the least that it knows")
    model = tiny.model("llama")
    module = (
        model.block(3).self_attn.o_proj if kind == "attention" else model.block(3).mlp.down_proj
    )
    module.weight.data.zero_()
    model.module.lm_head.weight.data.mul_(4)  # surer of its words, so that any change costs
    granularity = "mixed" if together else kind
    lowest = measure(metric, model, [tiny.own_words(model, 4, 12)], granularity).argmin()
    assert model.units(granularity)[lowest] == Unit(kind, 3)


@pytest.mark.parametrize("family", [slow("llama"), "gpt_neox"])
def test_what_is_left_of_a_halved_model_is_scored(metric, family):
    model = tiny.model(family)
    remove(model, Unit("attention", 0), Unit("mlp", 2), Unit("mlp", 5))
    scores = measure(metric, model, [tiny.ids()], "mixed")
    assert scores.shape == (9,) and torch.isfinite(scores).all()
    if metric not in DATA_FREE:
        assert (scores.abs() > 1e-6).all()


@pytest.mark.parametrize("granularity", each(KINDS, quick=("mixed",)))
def test_scores_do_not_depend_on_the_split_into_batches(metric, granularity):
    model = tiny.model("llama")
    windows = tiny.ids(6, 12)
    whole, split = (measure(metric, model, list(windows.split(n)), granularity) for n in (6, 2))
    torch.testing.assert_close(whole, split, rtol=1e-3, atol=1e-5)


def test_the_same_call_gives_the_same_scores(metric, granularity):
    model = tiny.model("llama")
    one, other = (measure(metric, model, [tiny.ids()], granularity) for _ in range(2))
    assert torch.equal(one, other)
