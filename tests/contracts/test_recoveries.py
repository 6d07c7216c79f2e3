"""What every recovery must hold to; new lines of the table join by themselves."""

import copy
import inspect
import itertools

import pytest
import torch

from fusegpt.models.surgery.removal import remove
from fusegpt.recovery import RECOVERIES
from fusegpt.units import Unit
from tests import tiny
from tests.quick import slow

UNIT = Unit("block", 2)
SMALL = {"group_size": 3, "rank": 4, "lora_rank": 4, "epochs": 3, "batch_size": 4}
RATES = {"learning_rate": 3e-3, "coefficient_learning_rate": 1e-2}


@pytest.fixture(params=[name for name, entry in RECOVERIES.items() if entry.schema.when == "step"])
def recovery(request):
    return request.param


SUBLAYERS = [
    (pytest.param if kind == "mlp" else slow)(name, Unit(kind, 2), id=f"{name}-{kind}")
    for name, kind in itertools.product(RECOVERIES, ["attention", "mlp"])
    if RECOVERIES[name].schema.when == "step" and RECOVERIES[name].schema.sublayers
]
sublayers = pytest.mark.parametrize("name, unit", SUBLAYERS)


def recover(name, model, *, unit=UNIT, seed=0, **changes):
    entry = RECOVERIES[name]
    given = {**SMALL, **RATES, **changes}
    known = entry.schema.model_fields
    settings = entry.schema(**{key: value for key, value in given.items() if key in known})
    return entry.load()(model, unit, tiny.ids(8, 10), settings, seed=seed)


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


def test_it_leaves_no_tensor_behind(recovery):
    recover(recovery, tiny.model("llama"))  # what is made once may stay
    before = tiny.living_tensors()
    recover(recovery, tiny.model("llama"))
    assert tiny.living_tensors() <= before


def test_it_takes_its_settings_and_what_the_run_knows(recovery):
    parameters = inspect.signature(RECOVERIES[recovery].load()).parameters
    assert list(parameters) == ["model", "unit", "windows", "settings", "seed", "checkpoint"]
    assert parameters["settings"].default == RECOVERIES[recovery].schema()


def test_training_starts_from_the_plain_removal(recovery):
    if "learning_rate" not in RECOVERIES[recovery].schema.model_fields:
        pytest.skip("nothing is trained")
    model, plain = tiny.model("llama"), tiny.model("llama")
    rates = {name: 1e-30 for name in ("learning_rate", "coefficient_learning_rate")}
    recover(recovery, model, fit="learned", **rates)
    remove(plain, UNIT)
    torch.testing.assert_close(model.module(tiny.ids()).logits, plain.module(tiny.ids()).logits)


def test_a_run_of_blocks_goes_at_once(recovery):
    if not RECOVERIES[recovery].schema.runs:
        pytest.skip("one block at a time")
    model = tiny.model("llama")
    report = recover(recovery, model, unit=[UNIT, Unit("block", 3)])
    assert model.kept == [0, 1, 4, 5]
    assert set(report.group) <= set(model.kept)
    assert torch.isfinite(model.module(tiny.ids()).logits).all()


@sublayers
@pytest.mark.parametrize("family", [slow("llama"), "gpt_neox"])
def test_a_sublayer_goes_and_what_is_named_is_all_that_changed(name, unit, family):
    model = tiny.model(family)
    before = {i: dict(copy.deepcopy(model.block(i)).named_parameters()) for i in model.kept}
    report = recover(name, model, unit=unit)
    assert (model.kept, model.removed, model.lacking) == ([0, 1, 2, 3, 4, 5], [unit], {unit})
    changed = {
        f"blocks.{index}.{parameter_name}"
        for index in model.kept
        for parameter_name, parameter in model.block(index).named_parameters()
        if not torch.equal(
            parameter, before[index].get(parameter_name, torch.zeros_like(parameter))
        )
    }
    assert changed <= set(report.changed)
    assert not any(model.is_gone(parameter_name) for parameter_name in report.changed)
    assert torch.isfinite(model.module(tiny.ids()).logits).all()


@sublayers
def test_a_sublayers_recovery_is_reproduced_and_never_ends_worse(name, unit):
    one, other = tiny.model("llama"), tiny.model("llama")
    report, _ = recover(name, one, unit=unit, seed=3), recover(name, other, unit=unit, seed=3)
    assert all(map(torch.equal, state(one).values(), state(other).values()))
    last = max((row["epoch"] for row in report.rows), default=0)
    first, final = (sum(r["loss"] for r in report.rows if r["epoch"] == e) for e in (0, last))
    assert final <= first


@sublayers
def test_a_sublayers_training_starts_from_the_plain_removal(name, unit):
    if "learning_rate" not in RECOVERIES[name].schema.model_fields:
        pytest.skip("nothing is trained")
    model, plain = tiny.model("llama"), tiny.model("llama")
    rates = {rate: 1e-30 for rate in ("learning_rate", "coefficient_learning_rate")}
    recover(name, model, unit=unit, fit="learned", **rates)
    remove(plain, unit)
    torch.testing.assert_close(model.module(tiny.ids()).logits, plain.module(tiny.ids()).logits)


@pytest.mark.parametrize("name", ["fusion", "finetune"])
def test_neighbours_of_a_sublayer_are_of_its_kind(name):
    model = tiny.model("llama")
    remove(model, Unit("attention", 1), Unit("mlp", 3))
    report = recover(name, model, unit=Unit("attention", 2), train_norms=True)
    assert report.group == [0, 3, 4]  # the attention of block 1 is gone, that of block 3 is there
    parts = {parameter.split(".")[2] for parameter in report.changed}
    assert parts == {"self_attn", "input_layernorm"}


def test_the_bias_of_an_attention_is_its_mean_update_where_the_mlp_reads_it():
    model = tiny.model("gpt_neox")  # parallel: the mlp stands in for the attention
    report = recover("additive_bias", model, unit=Unit("attention", 2), holdout=0.25)
    assert report.changed == ["blocks.2.mlp.dense_4h_to_h.bias"]
    report = recover("additive_bias", tiny.model("opt"), unit=Unit("attention", 2))
    assert report.changed == ["blocks.1.fc2.bias"]
    report = recover("additive_bias", tiny.model("opt"), unit=Unit("mlp", 2))
    assert report.changed == ["blocks.2.self_attn.out_proj.bias"]
