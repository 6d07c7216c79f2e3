import numpy as np
import pytest
import torch

import fusegpt
from fusegpt.cli import fusegpt_command, run
from fusegpt.data.window_files import read_windows, write_windows
from fusegpt.data.windows import (
    at_random,
    batches,
    consecutive,
    full_batches,
    is_windows_file,
    read_meta,
)
from fusegpt.errors import ArtifactError, ConfigError, DataError

TOKENS = np.arange(1000, dtype=np.int32)


def test_more_sequences_begin_with_the_fewer():
    assert np.array_equal(at_random(TOKENS, 3, 16, 7), at_random(TOKENS, 9, 16, 7)[:3])


def test_another_seed_cuts_elsewhere():
    assert not np.array_equal(at_random(TOKENS, 4, 16, 0), at_random(TOKENS, 4, 16, 1))


def test_random_windows_are_contiguous_and_inside_the_corpus():
    windows = at_random(TOKENS, 200, 16, 0)
    assert windows.dtype == np.int32
    assert (np.diff(windows, axis=1) == 1).all()
    assert windows.min() >= 0 and windows.max() < len(TOKENS)


def test_random_windows_reach_both_ends():
    starts = at_random(TOKENS[:20], 500, 16, 0)[:, 0]
    assert set(starts.tolist()) == {0, 1, 2, 3, 4}


def test_the_draw_is_the_same_on_every_machine():
    # the first 8 bytes of sha256("0:0"), by sha256sum
    assert at_random(TOKENS, 1, 16, 0)[0, 0] == int("ac72368a586a18c1", 16) % 985


def test_a_corpus_shorter_than_a_window_is_refused_with_both_numbers():
    with pytest.raises(DataError, match="10 tokens there, one window needs 16; lower the length"):
        at_random(TOKENS[:10], 1, 16, 0)


def test_consecutive_windows_drop_the_remainder():
    windows = consecutive(TOKENS[:50], 16)
    assert np.array_equal(windows.reshape(-1), TOKENS[:48])


def test_more_windows_than_there_are_is_refused_with_both_numbers():
    match = "50 tokens there, 4 windows of 16 need 64; lower the windows to 3"
    with pytest.raises(DataError, match=match):
        consecutive(TOKENS[:50], 16, 4)


def test_windows_survive_their_file(tmp_path):
    windows = at_random(TOKENS, 5, 16, 0)
    write_windows(tmp_path / "w.parquet", windows, {"corpus": "here", "seed": 0})
    back = read_windows(tmp_path / "w.parquet")
    assert back.dtype == torch.int64
    assert np.array_equal(back.numpy(), windows)
    assert read_meta(tmp_path / "w.parquet").to_json() == {"corpus": "here", "seed": 0}
    assert is_windows_file(tmp_path / "w.parquet")


def test_equal_windows_make_equal_files(tmp_path):
    for name in ("a", "b"):
        write_windows(tmp_path / name, at_random(TOKENS, 5, 16, 0), {"seed": 0})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_cut_off_file_is_named(tmp_path):
    path = tmp_path / "w.parquet"
    write_windows(path, at_random(TOKENS, 5, 16, 0), {})
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(
        ArtifactError, match=r"w\.parquet: not a readable parquet file.*fusegpt sample"
    ):
        read_windows(path)


def test_a_text_file_is_no_windows_file(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "t.parquet")
    assert not is_windows_file(tmp_path / "t.parquet")
    with pytest.raises(ArtifactError, match="not a windows file; make one with `fusegpt sample`"):
        read_windows(tmp_path / "t.parquet")


def test_batches_keep_every_window_and_full_ones_drop_a_ragged_last():
    windows = torch.arange(10).view(5, 2)
    assert torch.equal(torch.cat(batches(windows, 2)), windows)
    assert [len(batch) for batch in full_batches(windows, 2)] == [2, 2]
    assert [len(batch) for batch in full_batches(windows, 5)] == [5]


def test_a_damaged_note_names_the_file_and_the_field(tmp_path):
    write_windows(tmp_path / "w.parquet", TOKENS[:20].reshape(2, 10), {"length": "ten"})
    with pytest.raises(ArtifactError, match=r"w\.parquet: must be a file of windows: length: must"):
        read_meta(tmp_path / "w.parquet")


def test_python_samples_what_the_verb_writes(tiny_llama_dir, tmp_path):
    asked = {"length": 16, "sequences": 5, "seed": 3, "split": "test"}
    windows = fusegpt.sample(tiny_llama_dir, "python_docs", **asked, output=tmp_path / "a.parquet")
    assert windows.shape == (5, 16) and windows.dtype == torch.int64
    flags = [part for key, value in asked.items() for part in (f"--{key}", str(value))]
    verb = ["sample", "--model", str(tiny_llama_dir), "--corpus", "python_docs", *flags]
    assert run(fusegpt_command, [*verb, "--output", str(tmp_path / "b.parquet")]) == 0
    for name in ("a.parquet", "b.parquet"):
        assert torch.equal(fusegpt.read_windows(tmp_path / name), windows)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert read_meta(tmp_path / "a.parquet").provenance


@pytest.mark.parametrize(("given", "got"), [({}, "neither"), ({"rows": 1, "sequences": 1}, "both")])
def test_sequences_and_rows_exclude_each_other(given, got, tiny_llama_dir):
    with pytest.raises(ConfigError, match=f"sequences, rows: .* got {got}"):
        fusegpt.sample(tiny_llama_dir, "python_docs", length=16, **given)
