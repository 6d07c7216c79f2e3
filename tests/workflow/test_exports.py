"""Exports of an experiment: what is planned, refused, made, measured, kept."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from fusegpt.errors import ConfigError
from fusegpt.exports.tools import TOOLS
from fusegpt.results import layout as at
from fusegpt.workflow.experiment import make_plan
from fusegpt.workflow.exported import all_exports, check_exports, exports_of, shown_with_exports
from fusegpt.workflow.garbage import find
from tests.workflow.conftest import configuration

RECIPES = Path(__file__).resolve().parents[2] / "config" / "recipes"


def plan(exports, **more):
    config = configuration()
    config["experiments"]["study"] |= {"exports": exports, "keep_checkpoints": False, **more}
    return make_plan(config, RECIPES)


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """A folder where every tool seems to be installed."""
    folder = tmp_path / "tools"
    for name, _, version in (tool.partition("==") for tool in TOOLS):
        about = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
    monkeypatch.setenv("FUSEGPT_EXPORT_TOOLS", str(folder))
    return folder


def gptq_in(folder):
    """An environment where llm-compressor seems to be installed."""
    about = folder / "lib/python3.11/site-packages/llmcompressor-0.14.0.1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: llmcompressor\nVersion: 0\n")
    (folder / "bin").mkdir()
    (folder / "bin/python").touch()
    return folder


def test_every_model_is_exported_the_dense_one_included_and_checkpoints_are_kept():
    made = plan(["gguf:q8_0", "gguf:f16"])

    found = exports_of(made, "study")

    assert len(found) == 3 * 2
    assert found[0].record == "results/exports/tiny/dense/step-000/gguf-q8_0/export.json"
    assert found[0].results == [
        f"results/evaluations/tiny/dense/step-000/gguf-q8_0/{name}.json"
        for name in ("docs", "short")
    ]
    assert len(made.kept) == 2
    assert [x.text for x in shown_with_exports(made, "study").exports] == ["gguf:q8_0", "gguf:f16"]
    assert "exports" not in shown_with_exports(plan([]), "study").to_json()


def test_gptq_reads_windows_that_its_name_holds(monkeypatch, tmp_path):
    read = {"corpus": "python_docs", "sequences": 4, "length": 16}
    made, other = plan([{"gptq4": read}]), plan([{"gptq4": {**read, "seed": 1}}])

    export, elsewhere = exports_of(made, "study")[0], exports_of(other, "study")[0]

    assert export.target.text == "gptq4" and export.target.windows in made.windows
    assert export.target.windows.startswith("python_docs-train-")
    assert export.record.endswith(f"/gptq4-{export.target.windows}/export.json")
    assert elsewhere.record != export.record
    drawn = made.windows[export.target.windows]
    assert (drawn.sequences, drawn.length, drawn.seed) == (4, 16, 0)
    assert exports_of(plan(["gptq4"]), "study")[0].target.windows.startswith("wikitext2-train-")
    file = tmp_path / at.windows(model="tiny", windows=export.target.windows)
    file.parent.mkdir(parents=True)
    file.touch()
    assert find(made, tmp_path) == [] and [x.path for x in find(other, tmp_path)] == [file]
    monkeypatch.setenv("FUSEGPT_GPTQ", str(tmp_path))
    with pytest.raises(ConfigError, match=r"exports: must have llmcompressor==.*gptq-tools"):
        check_exports(made)


@pytest.mark.parametrize(
    ("exports", "message"),
    [
        (["gguf:q8"], "got 'gguf:q8'; did you mean 'gguf:q8_0'"),
        (["gptq4", {"gptq4": {}}], "must list each entry once, got 'gptq4' 2 times"),
        ([{"gptq4": {"corpus": "nothing"}}], "unknown corpus 'nothing'"),
        ([{"gptq4": {"tokens": 5}}], "gptq4"),
        ([{"gptq": {}}], "gptq4"),
        (["gguf:f16", "gguf:f16"], "must list each entry once, got 'gguf:f16' 2 times"),
    ],
)
def test_what_is_no_export_is_refused_in_one_line(exports, message):
    with pytest.raises(ConfigError) as caught:
        plan(exports)
    assert message in str(caught.value) and "experiments.study.exports" in str(caught.value)


def test_a_missing_tool_is_named_with_what_installs_it(tools):
    made = plan(["gguf:f16"])
    check_exports(made)
    shutil.rmtree(next(tools.glob("cyllama*")))
    with pytest.raises(ConfigError) as caught:
        check_exports(made)
    said = str(caught.value)
    assert said.startswith("experiments.study.exports: gguf must have llama.cpp's tools in ")
    assert "cyllama==0.2.18 is missing; run make export-tools, or pip install" in said
    check_exports(made, tools=False)
    check_exports(plan([]))


@pytest.mark.parametrize("recipe", ["slicegpt", "macro_influence_attention"])
def test_models_that_other_programs_do_not_know_are_refused(recipe, tools):
    if recipe != "slicegpt":
        more = {"recipe_settings": {"macro_influence": {"granularity": "attention"}}}
        made = plan(["gguf:f16"], recipes=["macro_influence"], **more)
    else:
        made = plan(["gguf:f16"], recipes=[recipe])
    with pytest.raises(ConfigError, match="must be of recipes that remove whole blocks"):
        check_exports(made)


def test_a_chain_that_an_evaluation_ends_has_no_exports(tools):
    config = configuration()
    study = config["experiments"]["study"]
    del study["sparsities"]
    study |= {"exports": ["int8"], "until": {"evaluation": "docs", "at_most": 99.0}}
    with pytest.raises(ConfigError, match="must stand beside sparsities, got until; use fusegpt"):
        check_exports(make_plan(config, RECIPES))


def test_eight_and_four_bits_need_no_tool_and_are_measured_by_all_but_speed(monkeypatch, tmp_path):
    monkeypatch.setenv("FUSEGPT_EXPORT_TOOLS", str(tmp_path))
    config = configuration()
    config["evaluations"] |= {"fast": {"eval": "speed"}, "tasks": {"eval": "zero_shot"}}
    names = ["docs", "fast", "tasks"]
    config["experiments"]["study"] |= {"exports": ["int4"], "evaluations": names}
    made = make_plan(config, RECIPES)
    check_exports(made)
    assert exports_of(made, "study")[0].evaluations == ("docs", "tasks")


def test_gc_keeps_what_is_named_and_lists_the_rest(tmp_path):
    both, one = plan(["gguf:q8_0", "gguf:f16"]), plan(["gguf:f16"])
    for export in all_exports(both):
        for file in (export.record, *export.results):
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).touch()

    gone = {garbage.path.relative_to(tmp_path).as_posix() for garbage in find(one, tmp_path)}

    assert find(both, tmp_path) == []
    expected = [x for x in all_exports(both) if x.target.type == "q8_0"]
    assert gone == {
        *(str(Path(export.record).parent) for export in expected),
        *(file for export in expected for file in export.results),
    }


def test_the_workflow_makes_them_and_measures_them(project, tools):
    project.environment["FUSEGPT_EXPORT_TOOLS"] = str(tools)
    project.environment["FUSEGPT_GPTQ"] = str(gptq_in(tools))
    read = {"corpus": "python_docs", "sequences": 4, "length": 16}
    exports = ["gguf:q4_k_m", {"gptq4": read}]
    project.study.update(exports=exports, evaluations=["docs"], recipes=["dense"])

    done = project.snakemake("-n", "--printshellcmds")

    assert done.returncode == 0, done.stderr[-2000:]
    said = done.stdout + done.stderr
    folder = "results/exports/tiny/dense/step-000/gguf-q4_k_m"
    assert f"export results/models/tiny --to gguf:q4_k_m --output {folder} " in said
    assert f"evaluate --model {folder} --evaluation " in said
    (windows,) = re.findall(r" sample .* --output (\S*/python_docs-train-\S*\.parquet)", said)
    folder = f"results/exports/tiny/dense/step-000/gptq4-{Path(windows).stem}"
    assert f"--to gptq4 --calibration {windows} --output {folder} " in said
    assert f"evaluate --model {folder} --evaluation " in said
    assert (
        at.export_evaluation.partly(
            model="tiny", recipe="dense", place="step-000", export="gguf-q4_k_m", evaluation="docs"
        )
        in said
    )
