"""The loop in one process and the chain of verbs leave the same bits; checkpoints load anywhere."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fusegpt.cli import fusegpt_command as command
from fusegpt.cli import run
from fusegpt.errors import ArchitectureError, ConfigError
from fusegpt.models.checkpoints.load import load
from fusegpt.pruning.jobs import fuse_model, merge_model
from fusegpt.pruning.recipe import resolve
from fusegpt.pruning.score_jobs import score_model
from fusegpt.pruning.scoring import score_step
from fusegpt.pruning.start import write_start
from fusegpt.results.history import fused_map, read_history
from fusegpt.results.records import Removal
from fusegpt.units import Unit
from tests import tiny
from tests.quick import slow

RECOVERY = {"group_size": 3, "rank": 4, "lora_rank": 4, "epochs": 2, "batch_size": 4}
RATES = {"learning_rate": 1e-2, "coefficient_learning_rate": 3e-2}


def store_in(directory, dtype):
    load(directory, dtype=dtype).module.save_pretrained(directory)


def weights(directory):
    return AutoModelForCausalLM.from_pretrained(directory).state_dict()


@pytest.mark.parametrize(
    "dtype, source, fold, donor",
    [
        ("float32", "float32", "each_step", "self"),
        ("float32", "bfloat16", "at_end", "removed"),
        slow("float32", "float32", "each_step", "removed"),
        slow("float32", "float32", "at_end", "removed"),
        slow("float32", "float32", "at_end", "self"),
        slow("float32", "bfloat16", "each_step", "removed"),
        slow("bfloat16", "float32", "each_step", "removed"),
        slow("bfloat16", "float32", "at_end", "removed"),
    ],
)
def test_one_process_and_the_chain_of_verbs_leave_the_same_bits(
    strong_llama_dir, windows_file, tmp_path, fold, dtype, source, donor
):
    store_in(strong_llama_dir, source)
    recovery = {"method": "fusion", **RECOVERY, **RATES, "fold": fold, "donor": donor}
    settings = {
        "importance": {"metric": "macro_influence"},
        "recovery": recovery,
        "finetune": {"sequences": 8},
        "dtype": dtype,
    }
    recipe = resolve("mine", settings)
    (tmp_path / "mine.yaml").write_text(json.dumps(settings))
    record = tmp_path / "runs" / "recipe.json"
    record.parent.mkdir()
    record.write_text(json.dumps(recipe.to_json()))

    assert not run(command, [
        "prune", "--model", str(strong_llama_dir), "--recipe", str(tmp_path / "mine.yaml"),
        "--sparsity", "0.5", "--calibration", str(windows_file), "--finetune", str(windows_file),
        "--output", str(tmp_path / "whole"),
    ])  # fmt: skip

    manifest = tmp_path / "runs" / "step-000" / "manifest.json"
    assert not run(command, [
        "start", "--model", str(strong_llama_dir / "source.json"), "--recipe-settings",
        json.dumps(recipe.to_json()), "--output", str(manifest), "--recipe-output", str(record),
    ])  # fmt: skip
    for step in (1, 2, 3):
        folder = tmp_path / "runs" / f"step-00{step}"
        common = ["--model", str(manifest), "--recipe", str(record)]
        scores = folder / "scores.json"
        assert not run(
            command,
            ["score", *common, "--calibration", str(windows_file), "--output", str(scores)],
        )
        assert not run(command, [
            "fuse", *common, "--scores", str(scores), "--finetune", str(windows_file),
            "--output", str(folder),
        ])  # fmt: skip
        manifest = folder / "manifest.json"
    merged = ["--model", str(manifest), "--recipe", str(record), "--output", str(tmp_path / "m")]
    assert not run(command, ["merge", *merged])

    one, other = weights(tmp_path / "whole"), weights(tmp_path / "m")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    notes = [json.loads((tmp_path / d / "fusegpt.json").read_text()) for d in ("whole", "m")]
    for key in ("removed", "kept", "fused", "recipe_id", "parameters"):
        assert notes[0][key] == notes[1][key]
    assert len(notes[0]["kept"]) == 3
    assert notes[0]["stored_dtypes"] == notes[1]["stored_dtypes"] == [source]
    assert (
        f"stored in {source}; the method computed in {dtype}"
        in (tmp_path / "m" / "README.md").read_text()
    )
    # evaluations read the step itself: it must be the merged model, unfolded fusions included
    stepped, merged_model = (load(path, dtype=dtype) for path in (manifest, tmp_path / "m"))
    assert not stepped.fused and not stepped.adapter_state
    one, other = stepped.module.state_dict(), merged_model.module.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_contiguous_cut_is_a_step_of_its_own_and_loads_anywhere(
    strong_llama_dir, windows_file, tmp_path
):
    settings = {
        "importance": {"metric": "angular_distance"},
        "selection": "contiguous",
        "recovery": {"method": "none"},
        "dtype": "float32",
    }
    recipe = tmp_path / "run" / "recipe.json"
    start = tmp_path / "run" / "step-000" / "manifest.json"
    step = tmp_path / "run" / "step-003"
    common = ["--model", str(start), "--recipe", str(recipe)]
    assert not run(command, [
        "start", "--model", str(strong_llama_dir / "source.json"), "--recipe-settings",
        json.dumps({"name": "cut", **settings}), "--output", str(start),
        "--recipe-output", str(recipe),
    ])  # fmt: skip
    scores = ["--calibration", str(windows_file), "--output", str(step / "scores.json")]
    assert not run(command, ["score", *common, *scores, "--count", "3"])
    fuse = ["--scores", str(step / "scores.json"), "--output", str(step)]
    assert not run(command, ["fuse", *common, *fuse])
    merge = ["--model", str(step / "manifest.json"), "--recipe", str(recipe)]
    assert not run(command, ["merge", *merge, "--output", str(tmp_path / "m")])
    (tmp_path / "cut.yaml").write_text(json.dumps(settings))
    assert not run(command, [
        "prune", "--model", str(strong_llama_dir), "--recipe", str(tmp_path / "cut.yaml"),
        "--sparsity", "0.5",
        "--calibration", str(windows_file), "--output", str(tmp_path / "whole"),
    ])  # fmt: skip

    notes = json.loads((tmp_path / "m" / "fusegpt.json").read_text())
    removed = [unit["index"] for unit in notes["removed"]]
    assert removed == list(range(removed[0], removed[0] + 3))
    assert notes["steps"][0]["step"] == 3
    assert load(step / "manifest.json").kept == notes["kept"]
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "m")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "m").config.num_hidden_layers == 3
    (found,) = read_history(step / "manifest.json").steps
    assert (found.step, [unit.index for unit in found.gone]) == (3, removed)


def test_a_later_one_shot_step_needs_the_first_scores(
    strong_llama_dir, windows_file, tmp_path, capsys
):
    settings = {"importance": {"metric": "sleb"}, "selection": "one_shot"}
    recipe = tmp_path / "run" / "recipe.json"
    manifest = tmp_path / "run" / "step-000" / "manifest.json"
    assert not run(command, [
        "start", "--model", str(strong_llama_dir / "source.json"), "--recipe-settings",
        json.dumps({"name": "once", **settings, "recovery": {"method": "none"}}),
        "--output", str(manifest), "--recipe-output", str(recipe),
    ])  # fmt: skip
    first = tmp_path / "run" / "step-001" / "scores.json"

    def score(manifest, output, *more):
        return run(command, [
            "score", "--model", str(manifest), "--recipe", str(recipe), "--calibration",
            str(windows_file), "--output", str(output), *more,
        ])  # fmt: skip

    assert not score(manifest, first)
    fuse = ["--scores", str(first), "--output", str(first.parent)]
    assert not run(command, ["fuse", "--model", str(manifest), "--recipe", str(recipe), *fuse])
    second = tmp_path / "run" / "step-002" / "scores.json"
    assert score(first.parent / "manifest.json", second) == 2
    assert "'once' scores once: give step 1's with --first-scores" in capsys.readouterr().err
    assert not score(first.parent / "manifest.json", second, "--first-scores", str(first))
    kept, before = (json.loads(file.read_text())["units"] for file in (second, first))
    assert [row for row in before if row in kept] == kept
    assert len(kept) == len(before) - 1


def test_a_checkpoint_is_an_ordinary_one(strong_llama_dir, windows_file, tmp_path):
    output = tmp_path / "pruned"
    assert not run(command, [
        "prune", "--model", str(strong_llama_dir), "--recipe", "fusegpt", "--sparsity", "0.3",
        "--settings", json.dumps({"recovery": {**RECOVERY, **RATES}, "dtype": "float32"}),
        "--calibration", str(windows_file), "--finetune", str(windows_file),
        "--output", str(output),
    ])  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(output).eval()
    assert model.config.num_hidden_layers == 4
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1, 2, 3]
    prompt = torch.tensor([[5, 6, 7, 8]])
    settings = {"max_new_tokens": 8, "do_sample": False}
    cached = model.generate(prompt, use_cache=True, **settings)
    assert torch.equal(cached, model.generate(prompt, use_cache=False, **settings))
    assert AutoTokenizer.from_pretrained(output)("import this")["input_ids"]
    assert "base_model: someone/tiny" in (output / "README.md").read_text()


def test_pruning_a_pruned_checkpoint_counts_from_the_dense_model(
    strong_llama_dir, windows_file, tmp_path
):
    def prune(model, sparsity, output):
        assert not run(command, [
            "prune", "--model", str(model), "--recipe", "macro_influence", "--sparsity", sparsity,
            "--settings", '{"dtype": "float32"}', "--calibration", str(windows_file),
            "--output", str(output),
        ])  # fmt: skip
        return json.loads((output / "fusegpt.json").read_text())

    prune(strong_llama_dir, "0.2", tmp_path / "a")
    stages = prune(tmp_path / "a", "0.5", tmp_path / "b")
    whole = prune(strong_llama_dir, "0.5", tmp_path / "c")
    assert stages["removed"] == whole["removed"]
    assert stages["kept"] == whole["kept"]


def test_one_shot_keeps_the_first_scores():
    model = tiny.model("llama")
    settings = {"importance": {"metric": "macro_influence"}, "recovery": {"method": "none"}}
    recipe = resolve("a", {**settings, "selection": "one_shot", "dtype": "float32"})
    first = score_step(model, recipe, tiny.ids())
    from fusegpt.models.surgery.removal import remove

    remove(model, first.selected)
    second = score_step(model, recipe, tiny.ids(), first)
    kept = [row for row in first.units if row != min(first.units, key=lambda r: r.score)]
    assert second.units == kept


def test_protected_blocks_are_not_scored():
    settings = {
        "importance": {"metric": "macro_influence", "protect_first": 1, "protect_last": 2},
        "recovery": {"method": "none"},
    }
    record = score_step(tiny.model("llama"), resolve("a", settings), tiny.ids())
    assert [row.index for row in record.units] == [1, 2, 3]
    settings["importance"]["protect_last"] = 5
    with pytest.raises(ConfigError, match="leave none of 6 blocks to remove"):
        score_step(tiny.model("llama"), resolve("a", settings), tiny.ids())


def test_the_fused_map_forgets_removed_targets():
    steps = [
        Removal(step=1, unit=Unit("block", 3), fused_into=[2, 4]),
        Removal(step=2, unit=Unit("block", 4), fused_into=[1, 2]),
    ]
    assert fused_map(steps) == {1: [4], 2: [3, 4]}


def test_a_chain_in_one_dtype_measures_what_it_stores(strong_llama_dir, windows_file, tmp_path):
    """The dense model is float32; everything behind it is rounded, untouched weights too."""
    recipe = resolve(
        "mine",
        {
            "importance": {"metric": "block_influence"},
            "recovery": {"method": "none"},
            "dtype": "float32",
            "checkpoint_dtype": "bfloat16",
        },
    )
    start, step = tmp_path / "step-000" / "manifest.json", tmp_path / "step-001"
    write_start(start, strong_llama_dir / "source.json", recipe)
    score_model(start, recipe, windows_file, step / "scores.json")
    fuse_model(start, recipe, step / "scores.json", step)
    merged = merge_model(step / "manifest.json", recipe, tmp_path / "m")
    assert (merged.dtype, merged.stored_dtypes) == ("float32", ["bfloat16"])
    one, other = (
        load(path, dtype="float32").module.state_dict() for path in (step, tmp_path / "m")
    )
    assert all(torch.equal(one[name], other[name]) for name in other)
    assert all(torch.equal(tensor, tensor.bfloat16().float()) for tensor in one.values())
    with pytest.raises(ArchitectureError, match="to be streamed, got checkpoint_dtype: bfloat16"):
        load(step, dtype="float32", weights="streamed")
