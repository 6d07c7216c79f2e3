"""`fusegpt plan`: what it counts, what is there, and what past runs say about time."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from fusegpt import runtime
from fusegpt.cli import fusegpt_command
from fusegpt.data.shape import block_shape, shape_of
from fusegpt.errors import ConfigError
from fusegpt.importance.settings import MetricSettings
from fusegpt.pruning.recipe import Recipe, resolve
from fusegpt.recovery.settings.base import RecoverySettings
from fusegpt.slicegpt.settings import WidthSettings
from fusegpt.work import Shape, Work, total
from fusegpt.workflow.cost import COUNTED, Cost
from fusegpt.workflow.dryrun import Job, jobs
from fusegpt.workflow.files import experiment_files, merged, plan_of
from fusegpt.workflow.measured import Measured
from tests.planned import fork_summaries

DATA = {"corpus": "python_docs", "sequences": 32, "length": 2048}
LLAMA = Shape(values=4 * 4096**2 + 3 * 4096 * 11008, sides=4 * 8192 + 3 * 15104, width=4096)


@pytest.fixture(autouse=True)
def forked_summaries(monkeypatch):
    fork_summaries(monkeypatch)


def recipe(metric="macro_influence", method="fusion", **settings):
    sections = {"importance": {"metric": metric}, "recovery": {"method": method}}
    return resolve("mine", {**sections, "calibration": DATA, **settings})


def test_scoring_runs_half_of_all_pairs_of_blocks():
    assert Cost(recipe(), 32).work("score", 1).passes == 528
    works = [Cost(recipe(), 30).work("score", step) for step in range(1, 9)]
    assert total(works).passes == sum(n * (n + 1) // 2 for n in range(23, 31))


def test_scoring_a_7b_model_costs_what_the_formula_says():
    work = Cost(recipe(), 32, LLAMA).work("score", 1)

    assert work.flops == pytest.approx(14.59e15, rel=1e-3)
    assert Cost(recipe("block_influence"), 32, LLAMA).work("score", 1).passes == 32
    assert Cost(recipe("last_blocks"), 32, LLAMA).work("score", 1).passes == 0
    assert Cost(recipe("taylor"), 32, LLAMA).work("score", 1).passes == 32
    assert Cost(recipe(selection="one_shot"), 32, LLAMA).work("score", 2).passes == 0


def test_tuning_a_7b_model_costs_what_the_formula_says():
    work = Cost(recipe(), 32, LLAMA).work("fuse", 1)

    assert work.optimizer_steps == 2560
    # each optimiser step, as before, and one pass that records what the group did
    assert work.flops == pytest.approx(2560 * 146.0e12 + 27.6e15, rel=1e-2)
    assert work.trainable == 7 * LLAMA.sides * 256
    assert Cost(recipe(method="none"), 32, LLAMA).work("fuse", 1).tokens == 0


def test_a_method_that_counts_nothing_is_not_counted_and_fails_nowhere():

    known = {"importance": MetricSettings(), "recovery": RecoverySettings()}
    depth = Cost(dataclasses.replace(recipe(), **known), 32, LLAMA)
    width = Cost(Recipe.of_width("mine", "mine_width", WidthSettings()), 32, LLAMA)

    assert depth.work("score", 1) == Work(passes=None, tokens=32 * 2048, flops=None)
    assert (depth.work("fuse", 1).tokens, depth.memory()) == (None, None)
    assert (width.work("slice").tokens, width.work("slice").flops) == (None, None)
    assert width.work("score", 1) == width.work("merge", 1) == Work()


def test_what_one_method_does_not_count_is_not_counted_in_the_sum():
    works = [Work(passes=None), Cost(recipe(), 4).work("score", 2)]

    assert total(works).passes is None


def test_a_blocks_shape_is_read_from_headers(tmp_path):
    tensors = {"embed.weight": np.zeros((9, 4), "float32")}
    for index in range(3):
        tensors[f"model.layers.{index}.up.weight"] = np.zeros((8, 4), "float32")
        tensors[f"model.layers.{index}.norm.weight"] = np.zeros(4, "float32")
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"hidden_size": 4}')

    shape = Shape(values=32, sides=12, width=4, rest=4, total=144, stored=4 * 144)
    assert block_shape(tmp_path, 3) == shape
    assert block_shape(tmp_path, 5) is None
    assert block_shape(tmp_path / "absent", 3) is None


@pytest.mark.parametrize(
    "name",
    ["smollm2-135m", "llama2-7b", "llama2-13b", "llama3-8b", "llava1.5-7b", "llava1.5-13b"],
)
def test_the_configured_shapes_are_those_of_transformers_own_classes(name):
    entry = plan_of(["table1"]).models[name]
    model = published_model(name)
    tensors = [(key, list(value.shape)) for key, value in model.named_parameters()]

    found = shape_of(tensors, model.config.get_text_config().to_dict(), entry.num_blocks)
    first = [x for x in tensors if ".layers.1.mlp." in x[0] and "vision" not in x[0]]
    mlp = sum(math.prod(sizes) for _, sizes in first)
    assert found.model_copy(update={"mlp": mlp, "stored": 2 * found.total}) == entry.shape


def published_model(name: str):
    """The model's architecture, as its publishers give it, without memory for its weights."""
    import torch
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    big = {
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
    }
    llama3 = {"intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 128256}
    small = {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    }
    sizes = {"13b": big, "8b": llama3, "135m": small}
    text = LlamaConfig(**sizes.get(name.rpartition("-")[2], {}))
    with torch.device("meta"):
        if name.startswith("llava"):
            text.vocab_size = 32064
            return LlavaForConditionalGeneration(LlavaConfig(text_config=text))
        return LlamaForCausalLM(text)


def test_experiments_go_by_name_or_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("experiments: {demo: {seeds: [1, 2]}}\n")

    assert experiment_files(["demo"])[0].name == "demo.yaml"
    config = merged(experiment_files(["demo", str(file)]))
    assert config["experiments"]["demo"]["seeds"] == [1, 2]
    assert config["experiments"]["demo"]["evaluations"]
    with pytest.raises(ConfigError, match="unknown experiment 'dmeo'; did you mean 'demo'"):
        experiment_files(["dmeo"])


@pytest.mark.parametrize("text", ["experiments: [", "- a", "{", "\x00"])
def test_a_file_that_is_no_table_is_refused_in_one_line(tmp_path, text):
    file = tmp_path / "bad.yaml"
    file.write_text(text)

    with pytest.raises(ConfigError) as caught:
        plan_of([str(file)])

    assert "bad.yaml: " in str(caught.value) and "\n" not in str(caught.value)


def outlook(project, *arguments: str) -> dict:
    project.command()
    line = ["plan", str(project.directory / "study.json"), "--directory", str(project.directory)]
    done = CliRunner().invoke(fusegpt_command, [*line, *arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    return json.loads(done.output) if "--json" in arguments else done.output


@pytest.mark.slow
def test_the_plan_of_a_longer_sweep_tells_new_from_there(finished):
    finished.study["sparsities"] = [0.25, 0.5]

    notes = outlook(finished, "--json")

    assert notes["jobs"]["score"] == {"to_run": 2, "there": 1}
    assert notes["jobs"]["take_scores"] == {"to_run": 0, "there": 2}
    assert notes["jobs"]["fetch"] == {"to_run": 0, "there": 1}
    assert notes["jobs"]["evaluate"] == {"to_run": 2, "there": 3}
    row = notes["runs"][0]
    assert (row["all_score"]["passes"], row["to_run_score"]["passes"]) == (10 + 6, 6)
    lines = [line.split()[0] for line in finished.started()]
    started = ["evaluate" if x == "load" else x for x in lines if x != "evaluate"]
    assert {name: x["to_run"] for name, x in notes["jobs"].items() if x["to_run"]} == {
        name: started.count(name) for name in started
    }


def test_the_plan_counts_the_jobs_that_share_windows(finished):
    finished.study["sparsities"] = [0.25, 0.5]
    finished.study["settings"]["calibration"]["batch_size"] = 1

    notes = outlook(finished, "--json", "--shards", "2")

    shared = notes["jobs"]["score_part"]["to_run"]
    assert shared == 2 * notes["jobs"]["score"]["to_run"] > 0


def test_the_plan_of_a_finished_sweep_has_nothing_to_do(finished):
    text = outlook(finished)

    assert "time: nothing to do" in text
    assert "block forward passes              10 / 0" in text


@pytest.mark.slow
def test_runs_of_blocks_and_recoveries_at_the_end_are_in_the_plan(finished, tiny_llama_dir):
    study = finished.study
    study |= {"recipes": ["mine_cut", "mine_end"], "sparsities": [0.25, 0.5], "settings": {}}
    data = {"corpus": "python_docs", "length": 16, "batch_size": 8}
    drawn = {"calibration": {**data, "rows": 2}, "finetune": {**data, "sequences": 8}}
    lora = {"method": "lora", "batch_size": 8, "lora_rank": 2, "epochs": 3}
    cut = {"selection": "contiguous", "importance": {"metric": "block_influence"}}
    finished.config["recipes"] = {
        "mine_cut": {**cut, "recovery": {"method": "magnitude"}, **drawn},
        "mine_end": {"importance": {"metric": "last_blocks"}, "recovery": lora, **drawn},
    }
    finished.config["models"]["tiny"] = {"source": f"dir:{tiny_llama_dir}", "num_blocks": 6}

    cut, end = outlook(finished, "--json")["runs"]

    assert (cut["all_score"]["passes"], cut["all_score"]["tokens"]) == (6 + 6, None)
    assert cut["all_fuse"]["tokens"] == 2 * 6 * 16  # a quarter of the windows is held out
    assert end["all_score"]["passes"] == 0 and end["all_fuse"]["tokens"] == 0
    assert end["all_merge"]["tokens"] == 2 * 3 * 8 * 16
    assert end["all_merge"]["trainable"] == end["to_run_merge"]["trainable"] > 0
    assert end["least_memory_gib"]["tuning"] > 0
    assert "recovery tokens                  768 / 768" in outlook(finished)


@pytest.mark.slow
def test_hours_are_the_counted_work_at_a_rate(finished, monkeypatch):
    finished.study["sparsities"] = [0.25, 0.5]
    finished.config["models"]["tiny"]["shape"] = {"values": 9, "sides": 6, "width": 3}

    notes = outlook(finished, "--json", "--tflops", "0.5")

    assert notes["jobs"]["fetch"]["to_run"] == 0  # saying the shape makes nothing stale
    flops = [row[f"all_{rule}"]["flops"] for row in notes["runs"] for rule in COUNTED]
    assert notes["hours"]["all"] == pytest.approx(sum(flops) / 0.5e12 / 3600)
    assert 0 < notes["hours"]["to_run"] < notes["hours"]["all"]
    assert notes["hours"]["not_counted"] == []
    monkeypatch.setattr(runtime, "slow_here", lambda dtype, device: f"{dtype} is slow on {device}")
    text = outlook(finished, "--tflops", "0.5")
    assert "hours at 0.5 TFLOP/s: " in text
    assert text.endswith("\nbfloat16 is slow on cpu\n")
    assert "hours" not in outlook(finished, "--json")


def test_what_is_not_counted_is_named_beside_the_hours(finished):
    hours = outlook(finished, "--json", "--tflops", "1")["hours"]

    assert [name.partition("-")[0] for name in hours["not_counted"]] == [
        "fusegpt",
        "macro_influence",
    ]


def test_time_is_what_earlier_runs_took_scaled_by_work(tmp_path, project):
    project.command()
    made = plan_of([str(project.directory / "study.json")])
    name = next(iter(made.recipes))
    _scored(tmp_path / "results/runs/tiny" / name, made.recipes[name])
    benchmark = tmp_path / "benchmarks/runs/score/tiny" / name / "step-001.tsv"
    _tsv(benchmark, 23.0)
    _tsv(tmp_path / "benchmarks/runs/fetch/tiny.tsv", 7.0)
    wildcards = {"model": "tiny", "recipe": name, "k": "002"}

    known = Measured(tmp_path, made, "cpu")

    assert known.seconds(Job("score", wildcards)) == pytest.approx(20 * 6 / 10 + 3)
    assert known.seconds(Job("fetch", {"model": "tiny"})) == 7.0
    assert known.peaks == {("tiny", name): 1.5}
    assert known.seconds(Job("merge", wildcards)) is None
    assert Measured(tmp_path, made, "cuda").seconds(Job("score", wildcards)) is None


def test_a_step_that_is_not_counted_takes_as_long_as_others_of_its_recipe(
    tmp_path, project, monkeypatch
):
    project.command()
    made = plan_of([str(project.directory / "study.json")])
    name = next(iter(made.recipes))
    monkeypatch.setattr(type(made.recipes[name].importance), "passes", lambda *_: None)
    _scored(tmp_path / "results/runs/tiny" / name, made.recipes[name])

    known = Measured(tmp_path, made, "cpu")

    assert known.seconds(Job("score", {"model": "tiny", "recipe": name, "k": "002"})) == 20.0


def test_the_summary_counts_the_jobs_of_a_dry_run(finished):
    """Snakemake says both; a changed setting and a lost file must be in both."""
    finished.config["evaluations"]["docs"]["length"] = 16
    for file in finished.directory.glob("results/runs/*/*/step-001/scores.json"):
        file.unlink()
    done = finished.snakemake("--dry-run")
    named = re.findall(r"^(?:local)?rule (\w+):$", done.stdout, flags=re.MULTILINE)
    rules = [name.replace("score_dense", "score").partition("_")[0] for name in named]
    file = finished.directory / "study.json"

    found = jobs(plan_of([str(file)]), merged([file]), finished.directory)

    waiting = [job.rule.partition("_")[0] for job in found if job.waits]
    assert sorted(waiting) == sorted(rule for rule in rules if rule != "all")


def test_a_corpus_whose_file_is_not_there_is_one_line(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(
        "corpora: {mine: {splits: {train: nothing.jsonl}}}\n"
        "experiments:\n  study:\n    models: [smollm2-135m]\n    recipes: [macro_influence]\n"
        "    sparsities: [0.1]\n    evaluations: [python_docs]\n"
        "    settings: {calibration: {corpus: mine, sequences: 2, length: 128}}\n"
    )
    with pytest.raises(ConfigError, match=r"^nothing\.jsonl: must be there, as rule sample reads"):
        jobs(plan_of([str(file)]), merged([file]), tmp_path)


def _scored(run: Path, recipe: Recipe) -> None:
    """A run that was scored once, in 20 seconds on the CPU."""
    (run / "step-001").mkdir(parents=True)
    (run / "recipe.json").write_text(json.dumps(recipe.to_json()))
    scores = {
        "metric": recipe.metric,
        "units": [],
        "step": 1,
        "seconds": 20.0,
        "memory_gib": 1.5,
        "provenance": {"device": "cpu"},
    }
    (run / "step-001/scores.json").write_text(json.dumps(scores))


def _tsv(file: Path, seconds: float) -> None:
    file.parent.mkdir(parents=True)
    file.write_text(f"s\th:m:s\n{seconds}\t0\n")
