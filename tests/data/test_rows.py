"""Calibration on rows drawn from a corpus."""

import json

import pytest

from fusegpt.cli import fusegpt_command as command
from fusegpt.cli import run
from fusegpt.data.corpora import draw_rows, load_text
from fusegpt.data.window_files import read_windows
from fusegpt.data.windows import read_meta
from fusegpt.errors import DataError


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": f"row {i} of many"}) + "\n" for i in range(50)))
    return path


def test_rows_are_drawn_without_replacement_and_joined_in_the_order_drawn(corpus):
    drawn = draw_rows(load_text(str(corpus), "train"), 50, seed=0)
    rows = drawn.text.split("\n\n")
    assert rows != sorted(rows)
    assert sorted(rows) == sorted(f"row {i} of many" for i in range(50))


def test_fewer_rows_are_the_first_of_more_and_the_seed_decides(corpus):
    text = load_text(str(corpus), "train")
    few, many = (draw_rows(text, count, seed=1) for count in (5, 20))
    assert many.rows[:5] == few.rows
    assert few.documents == 5
    assert draw_rows(text, 5, seed=2).rows != few.rows


def test_more_rows_than_there_are_is_an_error(corpus):
    with pytest.raises(DataError, match="split 'train': 51 rows asked, 50 there"):
        draw_rows(load_text(str(corpus), "train"), 51, seed=0)


def test_sampling_rows_takes_all_windows_that_they_fill(corpus, tiny_llama_dir, tmp_path):
    def sample(*more):
        return run(command, [
            "sample", "--model", str(tiny_llama_dir), "--corpus", str(corpus), "--length", "16",
            "--seed", "3", "--output", str(tmp_path / "w.parquet"), *more,
        ])  # fmt: skip

    assert not sample("--rows", "10")
    windows = read_windows(tmp_path / "w.parquet")
    meta = read_meta(tmp_path / "w.parquet").to_json()
    assert meta["rows"] == meta["documents"] == 10
    assert meta["sequences"] == len(windows) == meta["tokens"] // 16
    assert sample("--rows", "10", "--sequences", "2") == 2
    assert sample() == 2
