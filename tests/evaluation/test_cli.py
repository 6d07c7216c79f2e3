"""The verbs sample and evaluate, as a user calls them."""

import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fusegpt.cli import VERBS, fusegpt_command, run
from fusegpt.data.window_files import read_windows
from fusegpt.data.windows import read_meta

NAMED = 'e={"eval": "perplexity", "dtype": "float32", "settings": {"corpus": "python_docs"}%s}'


def fusegpt(*arguments):
    return run(fusegpt_command, [str(argument) for argument in arguments])


def test_sample_then_evaluate_the_same_file(tiny_llama_dir, tmp_path, capsys):
    data, result = tmp_path / "w.parquet", tmp_path / "e.json"
    code = fusegpt(
        *("sample", "--model", tiny_llama_dir, "--corpus", "python_docs", "--split", "train"),
        *("--sequences", 4, "--length", 32, "--seed", 3, "--output", data),
    )
    assert code == 0
    assert read_windows(data).shape == (4, 32)
    meta = read_meta(data).to_json()
    assert (meta["corpus"], meta["split"], meta["seed"]) == ("python_docs", "train", 3)
    code = fusegpt(
        *("evaluate", "--model", tiny_llama_dir, "--eval", "perplexity", "--data", data),
        *("--dtype", "float32", "--output", result),
    )
    assert code == 0
    written = json.loads(result.read_text())
    assert written["rows"][0]["num_samples"] == 4
    assert written["rows"][0]["task"] == "python_docs"
    assert written["model"]["kept"] == list(range(6))
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["task", "metric", "value", "samples"]
    assert out[1].split() == [
        "python_docs", "perplexity", f"{written['rows'][0]['value']:.4f}", "4",
    ]  # fmt: skip


def test_flags_win_over_settings_and_corpora_name_files(tiny_llama_dir, tmp_path):
    (tmp_path / "mine.txt").write_text("now is better than never " * 400)
    corpora = {"mine": {"splits": {"held_out": str(tmp_path / "mine.txt")}}}
    code = fusegpt(
        *("evaluate", "--model", tiny_llama_dir, "--data", "mine", "--split", "held_out"),
        *("--length", 64, "--windows", 2, "--settings", '{"length": 128, "bos": "none"}'),
        *("--corpora", json.dumps(corpora), "--output", tmp_path / "e.json"),
    )
    assert code == 0
    protocol = json.loads((tmp_path / "e.json").read_text())["rows"][0]["protocol"]
    assert (protocol["length"], protocol["windows"], protocol["bos"]) == (64, 2, "none")
    assert protocol["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--eval", "perplexty"], "unknown evaluation 'perplexty'; did you mean 'perplexity'"),
        (["--settings", '{"lenght": 1}'], "evaluations.perplexity: unknown setting 'lenght'"),
        (["--length", "0"], "evaluations.perplexity.length: must be greater than 0, got 0"),
        (["--length", "4096", "--data", "python_docs"], "must be at most 512"),
        (
            ["--data", "wikitext", "--length", "64"],
            "unknown corpus 'wikitext'; did you mean 'wikitext2'",
        ),
        (["--length", "64"], "HF_HUB_OFFLINE is set; name a local file"),
        (["--device", "gpu"], "device: must be cpu, cuda or cuda:N, got 'gpu'"),
        (["--corpora", '{"x": 5}'], "--corpora.x: must be a table of keys and values, got 5"),
        (["--corpora", '{"x": {"splits": {"test": 5}}}'], "splits.test: must be text, got 5"),
        (["--tasks", '{"piqa": 5}'], "--tasks.piqa: must be a table of keys and values, got 5"),
        (["--store", __file__], "must be a directory, is a file; choose another folder"),
        (["--store", "/proc/none"], "'/proc/none': must be a place to write to, got: no such"),
        (["--dense", "."], "'--dense' is for evaluations that compare with it, such as speed"),
        (["--evaluation", "e=5"], "--evaluation e: must be a table of keys and values, got 5"),
        (["--evaluation", "e={"], "must be NAME={eval, dtype, settings, corpora, tasks} in JSON"),
        (["--evaluation", NAMED % ', "task": {}'], "e: unknown setting 'task'; did you mean"),
        (["--evaluation", NAMED % ', "corpora": {"x": 5}'], "e: corpora.x: must be a table"),
        (["--evaluation", NAMED % "", "--set", "windows=2"], "must come without 'windows', got 2"),
        (["--evaluation", NAMED % "", "--eval", "speed"], "must come without 'eval', got 'speed'"),
    ],
)
def test_mistakes_end_in_one_line_and_exit_2(tiny_llama_dir, tmp_path, capsys, arguments, message):
    output = tmp_path / "e.json"
    assert fusegpt("evaluate", "--model", tiny_llama_dir, *arguments, "--output", output) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert message in error[-1] and "Traceback" not in "".join(error)
    assert not output.exists()


def test_windows_of_another_length_than_is_asked_are_refused(tiny_llama_dir, tmp_path, capsys):
    file = tmp_path / "w.parquet"
    pq.write_table(pa.table({"input_ids": [[5, 6, 7]]}), file)
    asked = ("evaluate", "--model", tiny_llama_dir, "--data", file, "--output", tmp_path / "e.json")
    assert fusegpt(*asked, "--length", 8) == 2
    said = f"length: must be 3, that of the windows in {file}, or left out, got 8"
    assert capsys.readouterr().err.splitlines()[-1] == f"fusegpt: {said}"
    assert fusegpt(*asked, "--length", 3) == 0


@pytest.mark.parametrize("verb", ["sample", "generate", "evaluate"])
def test_entries_of_the_configuration_are_checked_as_in_a_file(verb, capsys):
    wrong = '{"x": {"splits": {"train": "a.txt"}, "documents": 0}}'
    assert fusegpt(verb, "--corpora", wrong) == 2
    said = "fusegpt: --corpora.x.documents: must be greater than 0, got 0"
    assert capsys.readouterr().err.splitlines()[-1] == said
    (name,) = (one for one in VERBS[verb].load().params if one.name == "corpora")
    fine = {"c4": None, "x": {"splits": {"train": "a.jsonl"}, "join": " "}}
    assert name.type.convert(json.dumps(fine), name, None) == fine


def test_fetch_makes_a_directory_others_can_read(tiny_llama_dir, tmp_path):
    settings = '{"licence": "mit"}'
    fetch = ("fetch", "--model", f"dir:{tiny_llama_dir}", "--settings", settings)
    assert fusegpt(*fetch, "--output", tmp_path / "m") == 0
    assert json.loads((tmp_path / "m" / "source.json").read_text())["licence"] == "mit"
    assert fusegpt(*fetch, "--output", tmp_path / "m") == 2


def test_the_tables_and_verbs_import_no_torch():
    code = (
        "import sys, fusegpt.data, fusegpt.evaluation, fusegpt.data.sources, fusegpt.cli.fetch,"
        " fusegpt.cli.sample, fusegpt.cli.evaluate;"
        "sys.exit(bool({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
