"""Scoring in several jobs, from files to files, as the command line does it."""

import json

import pytest
from click.testing import CliRunner

from fusegpt.cli import fusegpt_command
from fusegpt.workflow.verify import verify


@pytest.fixture
def score(strong_llama_dir, windows_file):
    """Run ``fusegpt score`` on the model; returns whether it worked and what it says."""

    def run(output, *arguments, metric="macro_influence"):
        where = ["--model", str(strong_llama_dir), "--calibration", str(windows_file)]
        own = {"reference": "original"} if metric == "macro_influence" else {}
        recipe = {
            "name": "mine",
            "importance": {"metric": metric, **own},
            "recovery": {"method": "none"},
            "calibration": {"batch_size": 2},
            "dtype": "float32",
        }
        how = ["--recipe-settings", json.dumps(recipe), "--output", str(output)]
        done = CliRunner().invoke(fusegpt_command, ["score", *where, *how, *arguments])
        return done.exit_code == 0, str(done.exception or "") + done.output

    return run


def without_costs(file):
    return {
        name: value
        for name, value in json.loads(file.read_text()).items()
        if name not in ("seconds", "memory_gib", "sha256", "provenance")
    }


def test_parts_add_up_to_the_file_of_one_job(score, tmp_path):
    whole, added = tmp_path / "a/whole.json", tmp_path / "b/added.json"
    assert score(whole)[0]
    parts = []
    for shard in ("1-of-3", "2-of-3", "3-of-3"):
        parts += ["--part", str(tmp_path / f"parts/{shard}.json")]
        assert score(parts[-1], "--shard", shard)[0]

    done, said = score(added, *parts, "--device", "cuda")  # which nobody needs to add
    assert done, said

    digest = list(json.loads(whole.read_text()))[-1]
    one, other = without_costs(whole), without_costs(added)
    one.pop(digest), other.pop(digest)
    assert one == other and list(one) == list(other)
    done, said = score(added, *parts[:4])
    assert not done and "all 3 shards must be given, shard 3 is not" in said
    done, said = score(added, *parts, metric="sleb")
    assert not done and "its metric is 'macro_influence', not 'sleb'; delete it" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shard", "0-of-2"], "must be I-of-N with I from 1 to N, such as 2-of-4, got '0-of-2'"),
        (["--shard", "3-of-2"], "must be I-of-N with I from 1 to N, such as 2-of-4, got '3-of-2'"),
    ],
)
def test_a_shard_that_is_none_is_refused(score, tmp_path, arguments, message):
    done, said = score(tmp_path / "out.json", *arguments)
    assert not done and message in said and not (tmp_path / "out.json").exists()


def test_a_metric_that_must_see_all_windows_is_refused_before_the_model_is_read(score, tmp_path):
    done, said = score(tmp_path / "out.json", "--shard", "1-of-2", metric="taylor")
    assert not done and "score it in one job, without --shard" in said


def test_parts_that_lie_below_results_are_verified(score, tmp_path):
    part = tmp_path / "results/parts/tiny/macro_influence-01234567/1-of-2.json"
    assert score(part, "--shard", "1-of-2")[0]

    found = verify(tmp_path / "results")

    assert found.records == 1
    assert all("windows" in line for line in found.problems)
    part.write_text(part.read_text().replace('"shards": 2', '"shards": 3'))
    assert any("1-of-2.json" in line for line in verify(tmp_path / "results").problems)
