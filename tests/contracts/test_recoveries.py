"""What every recovery must hold to; new lines of the table join by themselves."""

import copy
import inspect

import pytest
import torch

from fusegpt.config import defaults
from fusegpt.models.surgery import remove
from fusegpt.models.units import Unit
from fusegpt.recovery import RECOVERIES
from tests import tiny

UNIT = Unit("block", 2)
SMALL = {"group_size": 3, "rank": 4, "lora_rank": 4, "epochs": 3, "batch_size": 4}
RATES = {"learning_rate": 3e-3, "coefficient_learning_rate": 1e-2}


@pytest.fixture(params=[name for name, entry in RECOVERIES.items() if entry.when == "step"])
def recovery(request):
    return request.param


def recover(name, model, *, unit=UNIT, seed=0, **changes):
    entry = RECOVERIES[name]
    known = defaults(entry)
    settings = {**SMALL, **RATES, **changes}
    settings = {key: value for key, value in settings.items() if key in known}
    return entry.load()(model, unit, tiny.ids(8, 10), seed=seed, **settings)


def state(model):
    return {name: value.clone() for name, value in model.module.state_dict().items()}


def test_the_unit_is_gone_and_the_model_runs(recovery):
    model = tiny.model("llama")
    recover(recovery, model)
    assert model.kept == [0, 1, 3, 4, 5]
    assert model.removed == [UNIT]
    assert torch.isfinite(model.module(tiny.ids()).logits).all()


def test_what_it_names_as_changed_is_all_that_changed(recovery):
    model = tiny.model("llama")
    before = {i: dict(copy.deepcopy(model.block(i)).named_parameters()) for i in model.kept}
    report = recover(recovery, model)
    changed = {
        f"blocks.{index}.{name}"
        for index in model.kept
        for name, parameter in model.block(index).named_parameters()
        if not torch.equal(parameter, before[index].get(name, torch.zeros_like(parameter)))
    }
    assert changed <= set(report.changed)


def test_it_never_ends_worse_on_its_own_training_loss(recovery):
    report = recover(recovery, tiny.model("llama"))
    if not report.rows:
        pytest.skip("nothing is trained")
    last = max(row["epoch"] for row in report.rows)
    losses = [[row["loss"] for row in report.rows if row["epoch"] == epoch] for epoch in (0, last)]
    assert sum(losses[1]) <= sum(losses[0])


def test_a_seed_reproduces_every_bit(recovery):
    models = [tiny.model("llama") for _ in range(2)]
    for model in models:
        recover(recovery, model, seed=3)
    one, other = map(state, models)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_no_global_random_state_is_touched(recovery):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    recover(recovery, tiny.model("llama"))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_published_parameters_are_keyword_only(recovery):
    parameters = inspect.signature(RECOVERIES[recovery].load()).parameters.values()
    assert [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] == [
        "model",
        "unit",
        "windows",
    ]


def test_training_starts_from_the_plain_removal(recovery):
    known = defaults(RECOVERIES[recovery])
    if "learning_rate" not in known:
        pytest.skip("nothing is trained")
    model, plain = tiny.model("llama"), tiny.model("llama")
    rates = {name: 1e-30 for name in ("learning_rate", "coefficient_learning_rate")}
    recover(recovery, model, fit="learned", **rates)
    remove(plain, UNIT)
    torch.testing.assert_close(model.module(tiny.ids()).logits, plain.module(tiny.ids()).logits)


def test_a_run_of_blocks_goes_at_once(recovery):
    if not RECOVERIES[recovery].runs:
        pytest.skip("one block at a time")
    model = tiny.model("llama")
    report = recover(recovery, model, unit=[UNIT, Unit("block", 3)])
    assert model.kept == [0, 1, 4, 5]
    assert set(report.group) <= set(model.kept)
    assert torch.isfinite(model.module(tiny.ids()).logits).all()
