"""What a recovery spends: counterparts have equal budgets, and FLOPs follow the formula."""

import pytest

from fusegpt.data.shape import block_shape
from fusegpt.data.streamed import Streamed
from fusegpt.models.checkpoints.load import load
from fusegpt.models.flops import forward_flops, training_flops
from fusegpt.models.surgery.removal import remove
from fusegpt.pruning.finish import finish
from fusegpt.pruning.recipe import load_recipe, resolve
from fusegpt.recovery.finetune import finetune
from fusegpt.recovery.fusion import fusion
from fusegpt.recovery.settings.group import Finetune, Fusion
from fusegpt.units import Unit
from fusegpt.workflow.cost import Cost
from tests import tiny

UNIT = Unit("block", 2)
BUDGET = {"group_size": 3, "epochs": 2, "batch_size": 4}


def test_a_low_rank_update_of_both_ranks_has_the_budget_of_fusion():
    windows = tiny.ids(8, 10)
    reports = [
        fusion(tiny.model("llama"), UNIT, windows, Fusion(rank=4, lora_rank=4, **BUDGET), seed=0),
        finetune(tiny.model("llama"), UNIT, windows, Finetune(lora_rank=8, **BUDGET), seed=0),
    ]
    one, other = reports
    assert one.trainable_parameters == other.trainable_parameters > 0
    assert (one.tokens, one.optimizer_steps, one.flops) == (160, 4, other.flops)


@pytest.mark.parametrize(
    ("fused", "counterpart"),
    [
        ("fusegpt", "macro_influence_finetune_equal"),
        ("fusegpt_mse", "macro_influence_finetune_mse_equal"),
    ],
)
def test_recipes_of_equal_budget_differ_in_nothing_else(fused, counterpart):
    one, other = (load_recipe(name).to_json() for name in (fused, counterpart))
    ranks = one["recovery"].pop("rank") + one["recovery"].pop("lora_rank")
    assert other["recovery"].pop("lora_rank") == ranks
    for name in ("donor", "coefficient_learning_rate"):
        one["recovery"].pop(name)
    for recipe in (one, other):
        del recipe["name"], recipe["recovery"]["method"]
    assert one == other


def test_flops_are_two_a_value_and_token_forward_and_six_in_training():
    model = tiny.model("llama")
    values = 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64)  # q, o; k, v; gate, up, down
    assert forward_flops(model, [0, 1], 100, 10) == 100 * (2 * values + 2 * 10 * 32 * 2)
    assert training_flops(model, [0, 1], 100, 10) == 100 * (6 * values + 7 * 10 * 32 * 2)


def test_coefficients_alone_train_without_an_update():
    model = tiny.model("llama")
    rates = {"coefficient_learning_rate": 1e-2}
    report = fusion(
        model,
        UNIT,
        tiny.ids(8, 10),
        Fusion(rank=4, lora_rank=0, **{**BUDGET, "batch_size": 8}, **rates),
        seed=0,
    )
    blocks = [model.block(index) for index in report.group]
    shapes = [p.shape for block in blocks for p in block.parameters() if p.dim() >= 2]
    assert report.trainable_parameters == sum(4 * sum(shape) for shape in shapes)
    assert report.rows[-1]["loss"] < report.rows[0]["loss"]


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("train", ["full", "all", "gaps", "lora"])
def test_a_plan_counts_of_a_finish_what_its_record_says(train, again, tiny_llama_dir):
    how = {"method": "lora", "lora_rank": 3} if train == "lora" else {"method": "full"}
    how |= {} if train == "lora" else {"train": train}
    how |= {"checkpointing": again}
    data = {"sequences": 8, "length": 10}
    chosen = resolve(
        "mine",
        {
            "importance": {"metric": "macro_influence"},
            "recovery": {"method": "none"},
            "finetune": data,
            "finish": {**how, "batch_size": 4, "epochs": 1},
        },
    )
    model = load(tiny_llama_dir, dtype="float32")
    remove(model, UNIT)

    record = finish(model, chosen, Streamed.of(tiny.ids(8, 10)))

    work = Cost(chosen, 6, block_shape(tiny_llama_dir, 6)).work("finish", 1)
    spared = 0.0
    if train == "gaps":  # a plan does not know which blocks go: those before them run forward only
        run = (model, model.kept[: UNIT.index - 1], record.tokens, data["length"])
        spared = training_flops(*run, adapters=True) - (0 if again else forward_flops(*run))
    assert work.flops - spared == record.flops
    assert (work.tokens, work.optimizer_steps) == (record.tokens, record.optimizer_steps)
    assert work.trainable == record.trainable_parameters
