"""A sliced checkpoint on disk: what it says, that it loads, and that everything can measure it."""

from __future__ import annotations

import json

import pytest
import torch

from fusegpt.cli import fusegpt_command, run
from fusegpt.data.window_files import read_windows
from fusegpt.evaluation import inference
from fusegpt.models.checkpoints.load import load
from fusegpt.pruning.recipe import load_recipe
from fusegpt.slicegpt.rotation import slicegpt
from fusegpt.workflow.describe import as_text, describe
from tests.fresh import loads_after

DTYPES = ("float32", "bfloat16")


def fusegpt(*arguments) -> int:
    return run(fusegpt_command, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def calibration(tiny_llama_dir, tmp_path_factory):
    file = tmp_path_factory.mktemp("windows") / "calibration.parquet"
    flags = ("--corpus", "python_docs", "--sequences", 6, "--length", 32, "--output", file)
    assert fusegpt("sample", "--model", tiny_llama_dir, *flags) == 0
    return file


@pytest.fixture(scope="module")
def sliced_dirs(tiny_llama_dir, calibration, tmp_path_factory):
    """By dtype: the tiny Llama with 24 of 32 dimensions."""
    folder = tmp_path_factory.mktemp("sliced")
    for dtype in DTYPES:
        settings = json.dumps({"dtype": dtype, "calibration": {"batch_size": 4}})
        flags = ("--recipe", "slicegpt", "--settings", settings, "--sparsity", "0.25")
        flags += ("--calibration", calibration, "--output", folder / dtype)
        assert fusegpt("slice", "--model", tiny_llama_dir, *flags) == 0
    return {dtype: folder / dtype for dtype in DTYPES}


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_was_sliced_loads_to_the_last_bit(dtype, sliced_dirs, tiny_llama_dir, calibration):
    windows = read_windows(calibration)
    dense = load(tiny_llama_dir, dtype=dtype)
    here, record = slicegpt(dense, list(windows.split(4)), "0.25", seed=0)

    loaded = load(sliced_dirs[dtype], dtype=dtype)

    assert torch.equal(loaded.module(windows).logits, here.module(windows).logits)
    assert loaded.kept == list(range(6))
    notes = json.loads((sliced_dirs[dtype] / "fusegpt.json").read_text())
    assert notes["width"] == 24 and notes["kept_energy"] == record["kept_energy"]
    assert notes["parameters"] == loaded.module.num_parameters()


@pytest.mark.slow
def test_plain_transformers_loads_it_after_one_import(sliced_dirs, calibration):
    loads_after("import fusegpt.slicegpt.modeling", sliced_dirs["float32"])


def test_saving_again_gives_the_same_weights(sliced_dirs, tmp_path):
    from safetensors.torch import load_file

    model = load(sliced_dirs["bfloat16"], dtype="bfloat16")
    model.module.save_pretrained(tmp_path)

    first, again = (
        load_file(place / "model.safetensors") for place in (sliced_dirs["bfloat16"], tmp_path)
    )
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_its_records_say_how_it_was_made(sliced_dirs, tiny_llama_dir):
    notes = json.loads((sliced_dirs["float32"] / "fusegpt.json").read_text())
    card = (sliced_dirs["float32"] / "README.md").read_text()
    described = as_text(describe(sliced_dirs["float32"]))

    assert notes["kind"] == "slice" and notes["sparsity"] == 0.25
    assert str(tiny_llama_dir) not in (sliced_dirs["float32"] / "config.json").read_text()
    assert notes["recipe_id"] == load_recipe("slicegpt", own=notes_settings(notes)).id
    assert notes["inputs"]["calibration"] and notes["provenance"]["libraries"]["torch"]
    assert "import fusegpt.slicegpt.modeling" in card and "24 of 32 dimensions" in card
    assert "no code besides transformers is needed" not in card and "2401.15024" in card
    assert "24 of 32 left" in described and "6 of 6 left" in described


def notes_settings(notes):
    return {key: notes["recipe"][key] for key in ("dtype", "calibration")}


def test_every_verb_measures_it(sliced_dirs, tiny_llama_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(inference, "peak_in_child", lambda *_: 0.5)
    common = ("--model", sliced_dirs["float32"], "--dtype", "float32")
    result = tmp_path / "result.json"

    perplexity = ("--data", "python_docs", "--split", "test", "--length", 32, "--windows", 4)
    assert fusegpt("evaluate", *common, *perplexity, "--output", result) == 0
    measured = json.loads(result.read_text())
    assert len(measured["model"]["kept"]) == 6
    assert measured["model"]["parameters"] == load(sliced_dirs["float32"]).module.num_parameters()

    speed = ("--eval", "speed", "--settings")
    small = json.dumps({"prompt": 8, "new_tokens": 2, "batch_sizes": [1], "rounds": 1})
    flags = (*common, *speed, small, "--output", tmp_path / "speed.json")
    assert fusegpt("evaluate", *flags) == 2
    assert "speed needs the dense model beside it" in capsys.readouterr().err
    assert fusegpt("evaluate", *flags, "--dense", tiny_llama_dir) == 0
    metrics = {row["metric"] for row in json.loads((tmp_path / "speed.json").read_text())["rows"]}
    assert {"prefill_speedup", "decode_speedup_ideal", "parameters"} <= metrics


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--recipe", "fusegpt"), "recipes.fusegpt: slices no widths; use fusegpt prune"),
        (("--recipe", "slicegtp"), "unknown recipe 'slicegtp'; did you mean 'slicegpt'?"),
        (("--recipe", "slicegpt", "--sparsity", "25"), "must be a fraction of units in [0, 1)"),
        (("--recipe", "slicegpt", "--sparsity", "0.9"), "leaves nothing that is a multiple of 8"),
        (
            ("--recipe", "slicegpt", "--settings", '{"width": {"rounds_interval": 8}}'),
            "width: unknown setting 'rounds_interval'; did you mean 'round_interval'?",
        ),
        (
            ("--recipe", "slicegpt", "--weights", "streamed"),
            "--weights: must be resident for slicing with recipe 'slicegpt'",
        ),
        ((), "one of '--recipe' and '--recipe-settings'"),
        (("--recipe-settings", "{}"), "--recipe-settings: name: is required"),
    ],
)
def test_bad_arguments_are_one_line(
    arguments, message, tiny_llama_dir, calibration, tmp_path, capsys
):
    output = tmp_path / "out"
    common = ("--model", tiny_llama_dir, "--sparsity", "0.25", "--calibration", calibration)

    assert fusegpt("slice", *common, "--output", output, *arguments) == 2

    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1]
    assert not output.exists()


def test_another_family_is_refused_before_its_weights_are_read(tmp_path, calibration, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    flags = ("--recipe", "slicegpt", "--sparsity", "0.25", "--calibration", calibration)

    assert fusegpt("slice", "--model", tmp_path, *flags, "--output", tmp_path / "out") == 2

    assert "slicegpt cannot slice 'gpt2'" in capsys.readouterr().err


def test_a_sliced_model_is_not_sliced_again_nor_pruned(sliced_dirs, calibration, tmp_path, capsys):
    common = ("--model", sliced_dirs["float32"], "--calibration", calibration)
    common += ("--sparsity", "0.25", "--output", tmp_path / "out")

    assert fusegpt("slice", *common, "--recipe", "slicegpt") == 2
    assert "cannot slice 'fusegpt_sliced'" in capsys.readouterr().err
    assert fusegpt("prune", *common, "--recipe", "slicegpt") == 2
    assert "recipes.slicegpt: slices widths; use fusegpt slice" in capsys.readouterr().err
    assert fusegpt("prune", *common, "--recipe", "block_influence") == 2
    assert "remove blocks first, slice then" in capsys.readouterr().err


def test_a_pruned_checkpoint_can_be_sliced(tiny_llama_dir, calibration, tmp_path):
    common = ("--sparsity", "0.25", "--calibration", calibration)
    pruned, sliced = tmp_path / "pruned", tmp_path / "sliced"
    flags = ("--recipe", "last_blocks", *common, "--output", pruned)
    assert fusegpt("prune", "--model", tiny_llama_dir, *flags) == 0

    flags = ("--recipe", "slicegpt", *common, "--output", sliced)
    assert fusegpt("slice", "--model", pruned, *flags) == 0

    assert load(sliced).kept == load(pruned).kept == [0, 1, 2, 3]
    assert "4 of 6 left" in as_text(describe(sliced))
