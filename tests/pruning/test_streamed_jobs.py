"""The verbs with weights that are read block by block: the same files, and less memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fusegpt.cli import fusegpt_command as command
from fusegpt.cli import run
from fusegpt.models.checkpoints import read_back
from fusegpt.models.stored import stored_in
from fusegpt.results.history import read_history
from tests import tiny
from tests.quick import slow

FUSION = {"method": "fusion", "group_size": 2, "rank": 2, "lora_rank": 2, "epochs": 1}
FUSION |= {"batch_size": 2, "learning_rate": 1e-2}


def settings(**recovery):
    return {
        "importance": {"metric": "macro_influence"},
        "calibration": {"batch_size": 2},
        "recovery": {**FUSION, **recovery} if recovery.get("method") != "none" else recovery,
        "finetune": {"sequences": 4},
        "dtype": "float32",
    }


def start(dense, folder, recipe):
    manifest = folder / "step-000" / "manifest.json"
    assert not run(command, [
        "start", "--model", str(dense / "source.json"), "--recipe-settings",
        json.dumps({"name": "mine", **recipe}), "--output", str(manifest),
        "--recipe-output", str(folder / "recipe.json"),
    ])  # fmt: skip
    return manifest


def step(manifest, folder, windows, number, weights, verb=run):
    """Score and fuse one step; the process's own way to run a verb may be given."""
    place = folder / f"step-{number:03d}"
    common = ["--model", str(manifest), "--recipe", str(folder / "recipe.json")]
    common += ["--weights", weights]
    scores = ["--output", str(place / "scores.json"), "--calibration", str(windows)]
    assert not verb(command, ["score", *common, *scores])
    fuse = ["--scores", str(place / "scores.json"), "--finetune", str(windows)]
    assert not verb(command, ["fuse", *common, *fuse, "--output", str(place)])
    return place / "manifest.json"


def merge(manifest, folder, weights, verb=run):
    asked = ["merge", "--model", str(manifest), "--recipe", str(folder / "recipe.json")]
    assert not verb(command, [*asked, "--output", str(folder / "m"), "--weights", weights])
    return folder / "m"


def weight_files(directory):
    return {file.name: file.read_bytes() for file in directory.glob("*") if "model" in file.name}


def units(manifest):
    return json.loads(manifest.with_name("scores.json").read_text())["units"]


@pytest.mark.parametrize(
    ("recipe", "steps"),
    [
        slow(settings(teacher="current"), 2),
        (settings(teacher="original"), 2),
        slow(settings(method="none") | {"granularity": "mixed"}, 3),
        (settings() | {"granularity": "attention"}, 2),
    ],
    ids=["current", "original", "mixed", "attention"],
)
def test_a_chain_of_streamed_steps_leaves_the_same_bytes(
    strong_llama_dir, windows_file, tmp_path, recipe, steps
):
    ends = {}
    for weights in ("resident", "streamed"):
        folder = tmp_path / weights
        manifest = start(strong_llama_dir, folder, recipe)
        for number in range(1, steps + 1):
            manifest = step(manifest, folder, windows_file, number, weights)
        ends[weights] = [link.file for link in read_history(manifest).links]
        merge(manifest, folder, weights)
    resident, streamed = (tmp_path / weights / "m" for weights in ends)
    assert weight_files(streamed) == weight_files(resident)
    assert (streamed / "config.json").read_bytes() == (resident / "config.json").read_bytes()
    for one, other in zip(ends["resident"], ends["streamed"], strict=True):
        assert units(one) == units(other)
        for name in ("delta.safetensors", "training.json"):
            assert one.with_name(name).read_bytes() == other.with_name(name).read_bytes()


def test_a_stored_dtype_and_shards_are_the_same(strong_llama_dir, windows_file, tmp_path):
    module = LlamaForCausalLM.from_pretrained(strong_llama_dir, dtype="bfloat16")
    module.save_pretrained(strong_llama_dir, max_shard_size="40KB")
    (strong_llama_dir / "model.safetensors").unlink(missing_ok=True)
    own = {name: value for name, value in FUSION.items() if name != "method"}
    found = []
    for weights in ("resident", "streamed"):
        output = tmp_path / weights
        assert not run(command, [
            "prune", "--model", str(strong_llama_dir), "--recipe", "fusegpt_quick", "--sparsity",
            "0.3", "--settings", json.dumps({"recovery": own, "dtype": "float32"}),
            "--calibration", str(windows_file), "--finetune", str(windows_file),
            "--output", str(output), "--weights", weights,
        ])  # fmt: skip
        found.append(weight_files(output))
    assert found[0] == found[1]
    stored = stored_in([output / "model.safetensors"])
    assert {place.dtype for place in stored.values()} == {torch.bfloat16}


def evaluate(manifest, output, weights, *more):
    return run(command, [
        "evaluate", "--model", str(manifest), "--dtype", "float32", "--weights", weights,
        "--output", str(output), *more,
    ])  # fmt: skip


def test_perplexity_is_the_same(strong_llama_dir, windows_file, tmp_path):
    rows = []
    for weights in ("resident", "streamed"):
        output = tmp_path / f"{weights}.json"
        assert not evaluate(strong_llama_dir, output, weights, "--data", str(windows_file))
        rows.append(json.loads(output.read_text())["rows"])
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    "recipe, verb, what",
    [
        (settings() | {"importance": {"metric": "taylor"}}, "score", "scoring with recipe 'mine'"),
        (settings(fold="at_end"), "fuse", "the recovery of recipe 'mine'"),
        (settings() | {"checkpoint_dtype": "bfloat16"}, "fuse", "the recovery of recipe 'mine'"),
    ],
)
def test_what_needs_all_weights_says_so_or_takes_them(
    strong_llama_dir, windows_file, tmp_path, capsys, recipe, verb, what
):
    manifest = start(strong_llama_dir, tmp_path / "run", recipe)
    common = ["--model", str(manifest), "--recipe", str(tmp_path / "run" / "recipe.json")]
    place = tmp_path / "run" / "step-001"
    scores = place / "scores.json"
    score = ["--calibration", str(windows_file), "--output", str(scores)]
    fuse = ["--scores", str(scores), "--finetune", str(windows_file), "--output", str(place)]
    if verb == "fuse":
        assert not run(command, ["score", *common, *score])
    asked = [verb, *common, *(score if verb == "score" else fuse)]
    assert run(command, [*asked, "--weights", "streamed"]) == 2
    assert f"--weights: must be resident for {what}" in capsys.readouterr().err
    assert not run(command, asked)


def test_speed_is_not_measured_on_streamed_weights(strong_llama_dir, tmp_path, capsys):
    assert evaluate(strong_llama_dir, tmp_path / "x.json", "streamed", "--eval", "speed") == 2
    assert "must be resident for speed" in capsys.readouterr().err


def test_weights_are_streamed_by_themselves_when_they_do_not_fit(
    strong_llama_dir, windows_file, tmp_path, monkeypatch, capsys
):
    output = tmp_path / "one.json"
    monkeypatch.setenv("FUSEGPT_MEMORY_GIB", "0.0001")
    assert not evaluate(strong_llama_dir, output, "auto", "--data", str(windows_file))
    assert "read block by block" in capsys.readouterr().err
    monkeypatch.setenv("FUSEGPT_MEMORY_GIB", "much")
    assert evaluate(strong_llama_dir, output, "auto", "--data", str(windows_file)) == 2
    assert "FUSEGPT_MEMORY_GIB: must be above 0, got 'much'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A random Llama of 250 MiB in float32: twelve blocks of 20 MiB, and small embeddings."""
    directory = tmp_path_factory.mktemp("large") / "dense"
    config = LlamaConfig(
        vocab_size=tiny.VOCAB,
        hidden_size=640,
        intermediate_size=1920,
        num_hidden_layers=12,
        num_attention_heads=10,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(directory)
    about = {"kind": "model", "num_blocks": 12, "base_model": "someone/large"}
    (directory / "source.json").write_text(json.dumps(about))
    return directory


LIMITED = """
import json, resource, sys
from fusegpt.cli import fusegpt_command, run
room, warm_up, *asked = json.loads(sys.argv[1])
assert not run(fusegpt_command, warm_up)
lines = open("/proc/self/status").read().splitlines()
taken = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (taken + room, taken + room))
print([run(fusegpt_command, arguments) for arguments in asked])
"""
PLAIN_MEMORY = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_MMAP_THRESHOLD_": "1048576"}
"""Nothing is reserved beforehand, and what is freed goes back at once."""
ROOM = 190 * 2**20
"""Two blocks on their way, a group of two with its factors, and the removed block: 7 of 12."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits and /proc of Linux")
def test_a_model_larger_than_the_memory_is_scored_fused_and_merged(
    large, strong_llama_dir, windows_file, tmp_path
):
    asked = []

    def note(_, arguments):
        asked.append(arguments)

    ends, merged = [], []
    for weights, verb in (("streamed", note), ("resident", run)):
        manifest = start(large, tmp_path / weights, settings())
        ends.append(step(manifest, tmp_path / weights, windows_file, 1, weights, verb))
        merged.append(merge(ends[-1], tmp_path / weights, weights, verb))

    def score(model, *more):
        asked = ["--metric", "last_blocks", "--dtype", "float32", "--model", str(model), *more]
        output = tmp_path / f"{len(more)}.json"
        return ["score", *asked, "--calibration", str(windows_file), "--output", str(output)]

    jobs = [ROOM, score(strong_llama_dir), *asked, score(large, "--weights", "resident")]
    jobs.append(score(large))  # which streams by itself
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, json.dumps(jobs)],
        env={**os.environ, **PLAIN_MEMORY},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert json.loads(done.stdout) == [0, 0, 0, 77, 0], done.stderr
    assert units(ends[0]) == units(ends[1])
    deltas = [end.with_name("delta.safetensors").read_bytes() for end in ends]
    assert deltas[0] == deltas[1]
    assert weight_files(merged[0]) == weight_files(merged[1])


@pytest.mark.parametrize("family", ["qwen3_moe", slow("mixtral"), slow("lfm2_moe")])
def test_stacked_experts_are_streamed_and_written_one_by_one(
    family, windows_file, tmp_path, monkeypatch
):
    def whole(*_):
        raise AssertionError("the whole was loaded to be compared")

    dense = tmp_path / "dense"
    tiny.build(family).save_pretrained(dense)
    (dense / "source.json").write_text('{"kind": "model", "num_blocks": 6, "base_model": "a/b"}')
    for weights in ("resident", "streamed"):
        if weights == "streamed":
            monkeypatch.setattr(read_back, "_loaded", whole)
        folder = tmp_path / weights
        manifest = start(dense, folder, settings())
        merge(step(manifest, folder, windows_file, 1, weights), folder, weights)
    resident, streamed = (tmp_path / weights / "m" for weights in ("resident", "streamed"))
    assert weight_files(streamed) == weight_files(resident)
    assert any(".experts.1." in name for name in stored_in([streamed / "model.safetensors"]))
