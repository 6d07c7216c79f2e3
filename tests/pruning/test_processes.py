"""What two processes on the CPU share, a step, a finish, an evaluation, is one's up to rounding."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from fusegpt.cli import fusegpt_command as command
from fusegpt.cli import run
from fusegpt.data.window_files import write_windows
from fusegpt.pruning.recipe import resolve
from fusegpt.pruning.start import write_start
from tests import tiny

pytestmark = pytest.mark.slow

SETTINGS = {
    "importance": {"metric": "random"},
    "recovery": {
        "method": "fusion",
        "loss": "kl_batch",
        **{"group_size": 3, "rank": 4, "lora_rank": 4, "epochs": 2, "batch_size": 3},
        **{"learning_rate": 1e-2, "clip_norm": 1.0, "keep": "best"},
    },
    "finetune": {"sequences": 7},
    "dtype": "float32",
}


@pytest.fixture(scope="module")
def fused(tiny_llama_dir, tmp_path_factory):
    """Step 1 by one process and by two: manifest, training rows and delta of each."""
    folder = tmp_path_factory.mktemp("processes")
    write_windows(folder / "windows.parquet", tiny.ids(7, 10).numpy(), {"corpus": "random"})
    (folder / "mine.yaml").write_text(json.dumps(SETTINGS))
    first = folder / "step-000" / "manifest.json"
    shutil.copytree(tiny_llama_dir, folder / "model")
    (folder / "model/source.json").write_text(json.dumps({"kind": "model", "num_blocks": 6}))
    write_start(first, folder / "model/source.json", resolve("mine", SETTINGS))
    given = ["--model", str(first), "--recipe", str(folder / "mine.yaml")]
    scores = str(folder / "scores.json")
    windows = str(folder / "windows.parquet")
    assert not run(command, ["score", *given, "--calibration", windows, "--output", scores])
    given += ["--scores", scores, "--finetune", windows]
    for name, device in (("one", "cpu"), ("two", "cpux2")):
        output = ["--device", device, "--output", str(folder / name)]
        assert not run(command, ["fuse", *given, *output])
    return folder, given


def rows(folder):
    return json.loads((folder / "training.json").read_text())["rows"]


def test_two_processes_tune_as_one_does(fused):
    folder, _ = fused
    one, two = rows(folder / "one"), rows(folder / "two")
    assert [row["step"] for row in two] == [row["step"] for row in one]
    losses = [[row["loss"] for row in each] for each in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-6)
    assert min(losses[0]) < losses[0][0]
    found, wanted = (load_file(folder / name / "delta.safetensors") for name in ("two", "one"))
    assert found.keys() == wanted.keys() and found
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_two_processes_finish_as_one_does(fused):
    folder, given = fused
    step = ["--model", str(folder / "one/manifest.json")]
    finish = {"method": "distill", "epochs": 2, "batch_size": 3, "micro_batch_size": 1, "top_k": 16}
    finish |= {"next_token": 0.25, "chunk": 4, "learning_rate": 1e-3}
    (folder / "healed.yaml").write_text(json.dumps({**SETTINGS, "finish": finish}))
    step += ["--recipe", str(folder / "healed.yaml"), "--windows", given[-1]]
    found = []
    for name, device in (("whole-one", "cpu"), ("whole-two", "cpux2")):
        output = folder / name
        assert not run(command, ["finish", *step, "--device", device, "--output", str(output)])
        record = json.loads((output / "fusegpt.json").read_text())["finish"]
        found.append(([row["loss"] for row in record["training"]], record["flops"]))
        assert [file.name for file in folder.glob(f"{name}.*")] == []
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
    assert found[0][0][-1] < found[0][0][0] and found[0][1] == found[1][1]
    one, two = (
        load_file(folder / name / "model.safetensors") for name in ("whole-one", "whole-two")
    )
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=1e-4, msg=key)


def test_two_processes_measure_the_same_value_as_one(fused):
    folder, given = fused
    model = ["--model", str(folder / "one/manifest.json"), "--data", given[-1]]
    found = []
    for device in ("cpu", "cpux2"):
        output = folder / f"{device}.json"
        asked = ["--dtype", "float32", "--device", device, "--output", str(output)]
        assert not run(command, ["evaluate", *model, *asked])
        found.append(json.loads(output.read_text())["rows"])
    assert found[0] == found[1] and found[0][0]["num_samples"] == 7
