"""What `fusegpt plan` counts is what tiny runs do: hooks, step records, tensors."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import fusegpt
from fusegpt.data.shape import block_shape
from fusegpt.data.windows import batches
from fusegpt.importance import METRICS
from fusegpt.models.checkpoints.load import load
from fusegpt.models.model import Model
from fusegpt.pruning.recipe import resolve
from fusegpt.recovery.group import group_of
from fusegpt.units import Unit
from fusegpt.workflow.cost import Cost
from tests import required
from tests.quick import each, slow
from tests.tiny import build

BLOCKS, LENGTH = 6, 8
WINDOWS = torch.randint(3, 300, (5, LENGTH), generator=torch.Generator().manual_seed(0))
DATA = {"corpus": "zen", "sequences": len(WINDOWS), "length": LENGTH, "batch_size": 2}


def recipe(importance, recovery=None, **more):
    sections = {"importance": importance, "recovery": recovery or {"method": "none"}}
    data = {"calibration": DATA, "finetune": {**DATA, "batch_size": 8}}
    return resolve("mine", {**sections, **data, "dtype": "float32", **more})


@pytest.fixture(scope="module")
def shape(tiny_llama_dir):
    return block_shape(tiny_llama_dir, BLOCKS)


FAMILIES = ("llama", "gpt2", "qwen2", "qwen3_moe", "gpt_neox", "mamba", "bamba", "falcon", "opt")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shape_read_from_headers_is_the_models(family, tmp_path):
    module = build(family)
    module.save_pretrained(tmp_path)
    model = Model.dense(module)

    found = block_shape(tmp_path, BLOCKS)

    def mean(of) -> int:
        sizes = [p for index in model.kept for p in of(index).values()]
        return sum(p.numel() for p in sizes) // BLOCKS

    assert (found.values, found.biases) == (mean(model.matrices), mean(model.biases))
    assert found.rest == mean(model.norms)
    assert found.total == sum(p.numel() for p in module.parameters())
    assert found.vocab == model.text_config.vocab_size


DRAWN = {
    "shapley": {"subnetworks": "sampled", "samples": 60},
    "policy_gradient": {"rounds": 60},
}
"""Settings with which metrics draw sub-networks, which take as many passes on average only."""
ALIKE = ("relative_l1", "relative_l2", "llm_bip", "angular_distance", "perplexity")
"""Metrics that count as ``block_influence`` or ``sleb`` does."""
SCORED = [
    *(
        (slow if metric in ALIKE else pytest.param)(
            {"metric": metric, **required.METRICS.get(metric, {})}
        )
        for metric in METRICS
        if metric != "policy_gradient"
    ),
    {"metric": "macro_influence", "reference": "original"},
    {"metric": "macro_influence", "protect_first": 1, "protect_last": 2},
    slow({"metric": "sleb", "protect_last": 2}),
    {"metric": "taylor", "protect_first": 2},
    slow({"metric": "shapley", "target": "logits"}),
    {"metric": "shapley", "target": "logits", "reference": "original"},
]


@pytest.mark.parametrize("importance", SCORED, ids=lambda x: "-".join(map(str, x.values())))
def test_block_passes_are_those_that_hooks_count(importance, tiny_llama_dir, shape):
    chosen = recipe(importance)
    model = load(str(tiny_llama_dir), dtype="float32")
    work = Cost(chosen, BLOCKS, shape).work("score", 1)
    if work.passes is None:
        pytest.skip(f"{chosen.metric} is not counted")

    passes, flops = scored(chosen, model)

    assert work.passes * len(WINDOWS) == passes
    if not passes:
        assert work.tokens == 0
        return
    assert work.tokens == WINDOWS.numel()
    # the counter knows no causality: it counts all of the attention, the formula half
    attention = work.passes * work.tokens * 2 * LENGTH * shape.width
    if chosen.metric in ("taylor", "gates"):
        assert flops == pytest.approx(work.flops, rel=0.1)
    else:
        assert flops == work.flops + attention


@pytest.mark.parametrize("metric", each(DRAWN, ["shapley"]))
@pytest.mark.parametrize("more", [slow({}), {"protect_first": 1}])
def test_drawn_sub_networks_take_as_many_passes_on_average(metric, more, tiny_llama_dir, shape):
    chosen = recipe({"metric": metric, **DRAWN[metric], **more})

    passes, _ = scored(chosen, load(str(tiny_llama_dir), dtype="float32"), WINDOWS[:1])

    expected = Cost(chosen, BLOCKS, shape).work("score", 1).passes
    assert passes == pytest.approx(expected, rel=0.05)


def scored(chosen, model: Model, windows: torch.Tensor = WINDOWS) -> tuple[int, float]:
    """Blocks that sequences ran through, and what PyTorch counts, while a metric works."""
    first, last = chosen.importance.protect_first, chosen.importance.protect_last
    units = model.units()[first : BLOCKS - last]
    counted: Counter[str] = Counter()

    def count(block, arguments, keywords, output):
        states = arguments[0] if arguments else keywords["hidden_states"]
        counted["passes"] += len(states)

    known = {"seed": 0, "run": 1, "details": {}}
    watched = [model]
    if chosen.importance.reference == "original":
        known["original"] = load(str(model.source), dtype="float32")
        watched.append(known["original"])
    for one in watched:
        one.module.set_attn_implementation("eager")  # the counter sees no fused attention
        for block in one.blocks:
            block.register_forward_hook(count, with_kwargs=True)
    metric = METRICS[chosen.metric]
    given = {name: known[name] for name in chosen.importance.takes if name in known}
    with FlopCounterMode(display=False) as flops:
        metric.load()(model, batches(windows, 2), units, chosen.importance, **given)
    return counted["passes"], flops.get_total_flops()


SMALL = {"epochs": 2, "batch_size": 2}
RANKS = {"rank": 2, "lora_rank": 3, "group_size": 3}
FINETUNED = {"method": "finetune", **SMALL, "group_size": 3, "lora_rank": 3}
TRAINED = [
    {"method": "fusion", **SMALL, **RANKS},
    slow({"method": "fusion", **SMALL, **RANKS, "train_norms": True}),
    {"method": "fusion", **SMALL, **RANKS, "lora_rank": 0, "group_size": 9},
    slow(FINETUNED),
    {"method": "finetune", **SMALL, "group_size": 9, "lora_rank": 3, "fold": "at_end"},
    {"method": "streamline", **SMALL},
    {"method": "low_rank", "fit": "learned", "rank": 3, **SMALL},
    slow({"method": "low_rank", "rank": 3, "batch_size": 2}),
    slow({"method": "additive_bias", "batch_size": 2}),
    {"method": "additive_bias", "fit": "learned", **SMALL},
    {"method": "least_squares"},
    slow({"method": "least_squares", "teacher": "original"}),
    {"method": "least_squares", "fit": "cosine", "cosine_epochs": 2, "cosine_batch_size": 3},
    slow({"method": "magnitude"}),
    slow({"method": "concatenation", "search": 2}),
    {"method": "magnitude", "scale": "channel"},
    {"method": "none"},
]


@pytest.mark.parametrize("recovery", TRAINED, ids=lambda x: "-".join(map(str, x.values())))
def test_a_steps_record_has_what_was_planned(recovery, tiny_llama_dir, shape):
    chosen = recipe({"metric": "macro_influence", "protect_first": 1}, recovery)
    model = load(str(tiny_llama_dir), dtype="float32")

    steps = fusegpt.prune(model, chosen, 2, WINDOWS, WINDOWS)

    for number, record in enumerate(steps, start=1):
        holds(record, Cost(chosen, BLOCKS, shape).work("fuse", number), shape)


def test_a_neighbour_that_learns_to_predict_text_is_counted_at_most(tiny_llama_dir, shape):
    chosen = recipe(
        {"metric": "macro_influence"}, {"method": "streamline", "loss": "next_token", **SMALL}
    )
    model = load(str(tiny_llama_dir), dtype="float32")

    (record,) = fusegpt.prune(model, chosen, 1, WINDOWS, WINDOWS)

    work = Cost(chosen, BLOCKS, shape).work("fuse", 1)
    for name in ("tokens", "optimizer_steps"):
        assert getattr(work, name) == getattr(record, name)
    assert work.trainable == record.trainable_parameters
    assert record.flops <= work.flops <= 1.5 * record.flops


@pytest.mark.parametrize("by", [slow("cosine"), "loss"])
def test_the_trials_of_a_reranking_are_counted(tiny_llama_dir, shape, by):
    tried = {"candidates": 3, "sequences": 2, "judged": 3, "group_size": 1, "epochs": 1, "by": by}
    chosen = recipe({"metric": "macro_influence", "protect_first": 4}, TRAINED[0], rerank=tried)
    model = load(str(tiny_llama_dir), dtype="float32")

    (record,) = fusegpt.prune(model, chosen, 1, WINDOWS, WINDOWS)

    work = Cost(chosen, BLOCKS, shape).work("fuse", 1)
    assert len(record.rerank.candidates) == 2
    holds(record, work, shape)
    assert work.optimizer_steps == 2 * 2 + 2 * 1
    plain = recipe({"metric": "macro_influence", "protect_first": 4}, TRAINED[0])
    weights = [Cost(each, BLOCKS, shape).memory().weights for each in (plain, chosen)]
    assert weights[1] == 2 * weights[0]


def test_terms_that_go_on_training_are_counted_at_most(tiny_llama_dir, shape):
    recovery = {"method": "fusion", **SMALL, **RANKS, "group_size": 9, "fold": "at_end"}
    chosen = recipe({"metric": "macro_influence"}, recovery)
    model = load(str(tiny_llama_dir), dtype="float32")

    steps = fusegpt.prune(model, chosen, 3, WINDOWS, WINDOWS)

    planned = [Cost(chosen, BLOCKS, shape).work("fuse", k).trainable for k in (1, 2, 3)]
    # all neighbours are in every group here, so each has as many donors as there were steps
    assert [step.trainable_parameters for step in steps] == planned


@pytest.mark.parametrize("method", ["none", "streamline", "lora"])
def test_a_run_of_blocks_and_a_recovery_at_the_end_are_counted(method, tiny_llama_dir, shape):
    recovery = {"method": method, **({} if method == "none" else SMALL)}
    chosen = recipe({"metric": "block_influence"}, recovery, selection="contiguous")
    model = load(str(tiny_llama_dir), dtype="float32")

    (record,) = fusegpt.prune(model, chosen, 2, WINDOWS, WINDOWS)

    assert Cost(chosen, BLOCKS, shape).work("score", 2).passes == BLOCKS
    holds(record, Cost(chosen, BLOCKS, shape).work("fuse", 2), shape)
    end = Cost(chosen, BLOCKS, shape).work("merge", 2)
    assert (end.optimizer_steps or 0) == (record.finish.optimizer_steps if record.finish else 0)
    if method == "lora":
        assert end.flops == record.finish.flops
        assert end.trainable == record.finish.trainable_parameters
        assert end.tokens == record.finish.tokens


def holds(record, work, shape) -> None:
    assert work.tokens == record.tokens
    assert work.optimizer_steps == record.optimizer_steps
    assert work.trainable == record.trainable_parameters
    recording = 2.0 * WINDOWS.numel() * BLOCKS * (2 * shape.values + 2 * LENGTH * shape.width)
    assert record.flops <= work.flops <= record.flops + recording


def test_the_memory_is_that_of_the_tensors_that_a_step_holds(tiny_llama_dir, shape, monkeypatch):
    from fusegpt.recovery import tuning
    from fusegpt.recovery.fit import Fit

    chosen = recipe({"metric": "macro_influence"}, TRAINED[0])
    model = load(str(tiny_llama_dir), dtype="float32")
    seen = {}

    class Counted(tuning.States):
        def add(self, *states):
            super().add(*states)
            seen["states"] = seen.get("states", 0) + _bytes(states)

    def fit(model, weights, *arguments, **keywords):
        factors = [p for weight in weights.values() for p in weight.parameters()]
        bases = [weight.base for weight in weights.values()]
        donors = {d.data_ptr(): d for weight in weights.values() for d in weight.donors.values()}
        seen["tuning"] = 4 * _bytes(factors) + 2 * _bytes(bases) + _bytes(donors.values())
        return Fit([{"step": 0, "loss": 1.0}])

    monkeypatch.setattr(tuning, "States", Counted)
    monkeypatch.setattr(tuning, "fit_weights", fit)
    weights = _bytes(model.module.parameters())
    scores = fusegpt.score_step(model, chosen, WINDOWS)
    from fusegpt.pruning.step import fuse_step

    fuse_step(model, chosen, scores, WINDOWS)

    found = Cost(chosen, BLOCKS, shape).memory()
    gib = 1024**3
    assert found.weights * gib == pytest.approx(weights)
    assert found.states * gib == pytest.approx(seen["states"])
    assert found.tuning * gib == pytest.approx(seen["tuning"])


def test_streamed_weights_are_those_of_the_group_and_what_is_in_no_block(tiny_llama_dir, shape):
    chosen = recipe({"metric": "macro_influence"}, FINETUNED)
    model = load(str(tiny_llama_dir), dtype="float32", weights="streamed")
    group = group_of(model, [Unit("block", 3)], chosen.recovery.group_size)
    model.hold({3, *group})
    there = [p for p in model.module.parameters() if p.device.type != "meta"]
    found = Cost(chosen, BLOCKS, shape).memory()
    assert found.streamed * 1024**3 == pytest.approx(_bytes(there))
    assert found.streamed < found.weights
    taylor = Cost(recipe({"metric": "taylor"}, FINETUNED), BLOCKS, shape).memory()
    assert taylor.streamed is None


def _bytes(tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors)
