"""Each recovery in the chain of verbs: the same bits as in one process, loaded by transformers."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from fusegpt.cli import fusegpt_command as command
from fusegpt.cli import run
from fusegpt.data.window_files import write_windows
from fusegpt.models.checkpoints.load import load
from fusegpt.pruning.recipe import resolve
from tests import tiny
from tests.quick import each

RECOVERIES = {
    "least_squares": {"ridge": 1.0},
    "low_rank": {"rank": 4, "fit": "learned", "batch_size": 4},
    "additive_bias": {},
    "magnitude": {},
    "streamline": {"batch_size": 4, "epochs": 2},
    "lora": {"lora_rank": 4, "batch_size": 4, "learning_rate": 1e-2},
}


@pytest.fixture
def dense(tmp_path):
    model = tiny.model("llama_tied")
    model.module.save_pretrained(tmp_path / "dense")
    notes = {"kind": "model", "num_blocks": 6, "base_model": "someone/tiny"}
    (tmp_path / "dense" / "source.json").write_text(json.dumps(notes))
    return tmp_path / "dense"


@pytest.fixture
def windows_file(tmp_path):
    write_windows(tmp_path / "windows.parquet", tiny.ids(8, 10).numpy(), {"corpus": "random"})
    return str(tmp_path / "windows.parquet")


def chain(dense, recipe, windows_file, folder):
    """Two steps and the checkpoint, verb by verb."""
    folder.mkdir()
    record = folder / "recipe.json"
    manifest = folder / "step-000" / "manifest.json"
    assert not run(command, [
        "start", "--model", str(dense / "source.json"), "--recipe-settings",
        json.dumps(recipe.to_json()), "--output", str(manifest), "--recipe-output", str(record),
    ])  # fmt: skip
    for step in (1, 2):
        place = folder / f"step-00{step}"
        common = ["--model", str(manifest), "--recipe", str(record)]
        scores = str(place / "scores.json")
        assert not run(
            command, ["score", *common, "--calibration", windows_file, "--output", scores]
        )
        tuned = [] if recipe.recovers_at_end else ["--finetune", windows_file]
        assert not run(
            command, ["fuse", *common, "--scores", scores, *tuned, "--output", str(place)]
        )
        manifest = place / "manifest.json"
    merge = ["merge", "--model", str(manifest), "--recipe", str(record)]
    if recipe.recovers_at_end:
        merge += ["--finetune", windows_file]
    assert not run(command, [*merge, "--output", str(folder / "merged")])
    return manifest, folder / "merged"


@pytest.mark.parametrize("method", each(RECOVERIES, quick=("streamline", "lora")))
def test_one_process_and_the_verbs_leave_the_same_bits(method, dense, windows_file, tmp_path):
    settings = {
        "importance": {"metric": "macro_influence", "protect_first": 1},
        "recovery": {"method": method, **RECOVERIES[method]},
        "finetune": {"sequences": 8},
        "dtype": "float32",
    }
    recipe = resolve("mine", settings)
    (tmp_path / "mine.yaml").write_text(json.dumps(settings))
    assert not run(command, [
        "prune", "--model", str(dense), "--recipe", str(tmp_path / "mine.yaml"), "--sparsity",
        "0.33", "--calibration", windows_file, "--finetune", windows_file, "--output",
        str(tmp_path / "whole"),
    ])  # fmt: skip
    manifest, merged = chain(dense, recipe, windows_file, tmp_path / "run")

    one, other = (AutoModelForCausalLM.from_pretrained(d) for d in (tmp_path / "whole", merged))
    assert one.config.num_hidden_layers == 4
    assert one.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(v, other.state_dict()[n]) for n, v in one.state_dict().items())
    notes = json.loads((merged / "fusegpt.json").read_text())
    if recipe.recovers_at_end:
        assert notes["finish"]["last_loss"] < notes["finish"]["first_loss"]
        assert notes["finish"]["optimizer_steps"] == len(notes["finish"]["training"])
        assert not list(merged.parent.glob("*.resume.safetensors"))
    else:
        step = load(manifest, dtype="float32")
        logits = step.module(tiny.ids()).logits
        assert torch.equal(logits, one(tiny.ids()).logits)
        assert notes["steps"][0]["flops"] > 0
