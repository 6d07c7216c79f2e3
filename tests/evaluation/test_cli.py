"""The verbs sample and evaluate, as a user calls them."""

import json
import subprocess
import sys

import pytest

from fusegpt.cli import fusegpt_command, run
from fusegpt.data.window_files import read_windows
from fusegpt.data.windows import read_meta


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
    ],
)
def test_mistakes_end_in_one_line_and_exit_2(tiny_llama_dir, tmp_path, capsys, arguments, message):
    output = tmp_path / "e.json"
    assert fusegpt("evaluate", "--model", tiny_llama_dir, *arguments, "--output", output) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert message in error[-1] and "Traceback" not in "".join(error)
    assert not output.exists()


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
