"""``fusegpt start`` and ``fusegpt info`` on files made by hand."""

from __future__ import annotations

import json

import pytest
import yaml

from fusegpt.artifacts import read_json, sha256, write_json
from fusegpt.cli import fusegpt_command, run
from fusegpt.data.shape import block_shape
from fusegpt.work import Shape

RECIPE = {
    "name": "mine",
    "importance": {"metric": "macro_influence"},
    "recovery": {"method": "none"},
    "dtype": "float32",
}


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "results/models/tiny/source.json"
    write_json(file, {"kind": "model", "num_blocks": 4, "parameters": 1234, "base_model": "org/m"})
    return file


@pytest.fixture
def begin(source, tmp_path):
    def start(*more, recipe=RECIPE):
        manifest = tmp_path / "results/runs/tiny/mine/step-000/manifest.json"
        arguments = ["--model", source, "--output", manifest, "--recipe-settings"]
        code = run(fusegpt_command, ["start", *map(str, arguments), json.dumps(recipe), *more])
        return manifest, code

    return start


def step(parent, number, index, fused_into, kept, removed):
    file = parent.parent.parent / f"step-{number:03d}" / "manifest.json"
    unit = {"granularity": "block", "index": index}
    path = f"../{parent.parent.name}/manifest.json"
    write_json(
        file,
        {
            **{"kind": "step", "step": number, "unit": unit, "removed": removed, "kept": kept},
            **{"recipe": "mine-12345678", "fused_into": fused_into},
            "parent": {"path": path, "sha256": sha256(parent)},
        },
    )
    return file


def units(*indices):
    return [{"granularity": "block", "index": index} for index in indices]


def test_start_writes_the_dense_chain_and_the_whole_recipe(begin, source):
    manifest, code = begin("--num-blocks", "4")

    assert code == 0
    notes = read_json(manifest)
    assert (notes["kind"], notes["step"], notes["kept"]) == ("start", 0, [0, 1, 2, 3])
    assert notes["parent"]["sha256"] == sha256(source)
    assert (manifest.parent / notes["parent"]["path"]).resolve() == source.resolve()
    recipe = read_json(manifest.parent.parent / "recipe.json")
    assert recipe["name"] == "mine" and recipe["selection"] == "iterative"


def test_start_refuses_a_model_with_other_blocks_and_writes_nothing(begin, capsys):
    manifest, code = begin("--num-blocks", "30")

    assert code == 2
    assert "must be 4, as" in capsys.readouterr().err
    assert not manifest.exists()


def test_start_refuses_an_unknown_setting(begin, capsys):
    _, code = begin(recipe={**RECIPE, "dtipe": "float32"})

    assert code == 2
    assert "did you mean 'dtype'?" in capsys.readouterr().err


def test_info_of_a_step_follows_what_was_fused_into_what(begin, capsys):
    manifest, _ = begin()
    first = step(manifest, 1, 2, [1, 3], [0, 1, 3], units(2))
    second = step(first, 2, 1, [0, 3], [0, 3], units(2, 1))
    capsys.readouterr()

    assert run(fusegpt_command, ["info", str(second.parent)]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["blocks"] == "2 of 4 left"
    assert lines["removed"] == "2, 1"
    assert lines["kept"] == "0, 3"
    assert lines["fused"] == "1 into 0; 2, 1 into 3"

    assert run(fusegpt_command, ["info", str(second), "--json"]) == 0
    notes = json.loads(capsys.readouterr().out)
    assert notes["fused"] == {"0": [1], "3": [2, 1]}
    assert notes["recipe"]["name"] == "mine"


def test_info_of_a_fetched_model(source, capsys):
    assert run(fusegpt_command, ["info", str(source.parent)]) == 0

    shown = capsys.readouterr().out
    assert "4 of 4 left" in shown and "1,234" in shown and "org/m" in shown


def test_info_prints_the_shape_that_a_configuration_takes(tiny_llama_dir, capsys):
    assert run(fusegpt_command, ["info", str(tiny_llama_dir)]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())

    shape = Shape.model_validate(yaml.safe_load(lines["shape"]))

    assert shape == block_shape(tiny_llama_dir, 6) and shape.cache == 2 * shape.width // 2


def test_info_of_a_checkpoint(tmp_path, capsys):
    notes = {"num_blocks": 4, "removed": units(2), "kept": [0, 1, 3], "fused": {"1": [2]}}
    write_json(tmp_path / "fusegpt.json", {**notes, "recipe_id": "mine-12345678", "parameters": 9})

    assert run(fusegpt_command, ["info", str(tmp_path)]) == 0
    assert "2 into 1" in capsys.readouterr().out


def test_info_of_an_empty_directory_says_what_was_expected(tmp_path, capsys):
    assert run(fusegpt_command, ["info", str(tmp_path)]) == 2

    assert "no model, step or checkpoint here; expected fusegpt.json" in capsys.readouterr().err
