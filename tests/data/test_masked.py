"""Windows that end in padding, or of which only some predictions count."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fusegpt.data.masked import (
    IGNORED,
    Masked,
    mask_of,
    next_tokens,
    predicted,
    tokens_in,
    unpadded,
)
from fusegpt.data.streamed import stream_windows
from fusegpt.data.window_files import read_windows, write_windows
from fusegpt.data.windows import batches, check_content
from fusegpt.errors import ArtifactError, DataError
from tests import tiny

LENGTHS = [5, 5, 2, 8, 8, 8]


@pytest.fixture
def windows():
    return Masked.of(tiny.ids(6, 10), LENGTHS)


@pytest.fixture
def answers():
    ids = tiny.ids(2, 4)
    counts = torch.tensor([[True, False, True, False], [False, True, True, True]])
    return Masked.of(ids, [4, 3], counts)


def test_batches_keep_masks_and_are_as_long_as_their_longest_window(windows):
    pieces = batches(windows, 4)
    assert [tuple(piece.shape) for piece in pieces] == [(4, 8), (2, 8)]
    assert [piece.lengths for piece in pieces] == [[5, 5, 2, 8], [8, 8]]
    assert mask_of(pieces[0]).sum(1).tolist() == [5, 5, 2, 8]
    assert mask_of(pieces[1]) is None
    assert windows[:2].shape == (2, 10)
    for ids in (windows[0], windows[:, 1:], windows + 1, windows.int()):
        assert not isinstance(ids, Masked)


def test_what_is_scored_has_no_padding(windows):
    pieces = unpadded(windows, 2)
    assert [tuple(piece.shape) for piece in pieces] == [(2, 5), (1, 2), (2, 8), (1, 8)]
    assert not any(isinstance(piece, Masked) for piece in pieces)
    assert torch.equal(pieces[1], windows.plain()[2:3, :2])
    plain = tiny.ids(5, 7)
    assert all(map(torch.equal, unpadded(plain, 2), plain.split(2)))


def test_targets_are_tokens_whose_prediction_counts(windows, answers):
    plain = tiny.ids(2, 4)
    assert torch.equal(next_tokens(plain), plain[:, 1:])
    assert (tokens_in(plain), predicted(plain)) == (8, 6)
    assert (tokens_in(windows), predicted(windows)) == (36, 30)
    assert (next_tokens(windows) != IGNORED).sum(1).tolist() == [4, 4, 1, 7, 7, 7]
    a, b = answers.plain().tolist()
    assert next_tokens(answers).tolist() == [[IGNORED, a[2], IGNORED], [b[1], b[2], IGNORED]]
    assert (tokens_in(answers), predicted(answers)) == (7, 3)
    assert [len(piece) for piece in unpadded(answers, 2)] == [1, 1]
    assert sum(map(predicted, unpadded(answers, 2))) == 3


def test_a_file_gives_masks_back(windows, answers, tmp_path):
    for given in (windows, answers):
        write_windows(tmp_path / "w.parquet", given, {"corpus": "x"})
        again = read_windows(tmp_path / "w.parquet")
        assert torch.equal(again.plain(), given.plain()) and again.lengths == given.lengths
        assert torch.equal(next_tokens(again), next_tokens(given))


def test_a_file_without_masks_has_no_columns_for_them(tmp_path):
    write_windows(tmp_path / "w.parquet", tiny.ids(2, 4), {"corpus": "x"})
    assert pq.read_schema(tmp_path / "w.parquet").names == ["input_ids"]
    assert type(read_windows(tmp_path / "w.parquet")) is torch.Tensor


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("mask", [[False, True], [True, True]], "mask must be false behind a window's tokens"),
        ("mask", [[False, False], [True, True]], "window 0 must have 2 to 2 tokens .*, got 0"),
        ("mask", [[1, 0], [1, 1]], "mask must hold true or false for every token id"),
        ("answers", [[True], [True]], "answers must hold true or false for every token id"),
        ("answers", [[True, False], [True, True]], "window 0 must have a token whose prediction"),
    ],
)
def test_masks_that_mean_nothing_are_refused(tmp_path, column, values, message):
    file = tmp_path / "w.parquet"
    pq.write_table(pa.table({"input_ids": [[5, 6], [7, 8]], column: values}), file)
    with pytest.raises((ArtifactError, DataError), match=message):
        read_windows(file)


def test_a_finish_reads_the_same_targets_from_the_file(windows, answers, tiny_llama_dir, tmp_path):
    for given in (windows, answers):
        write_windows(tmp_path / "w.parquet", given, {"corpus": "x"})
        streamed = stream_windows(tiny_llama_dir, tmp_path / "w.parquet", tmp_path)
        assert torch.equal(streamed.targets(0, len(given)), next_tokens(given) != IGNORED)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"mask": [[False, True], [True, True]]}, "mask must be false behind a window's tokens"),
        ({"mask": [[1, 0], [1, 1]]}, "mask must hold true or false for every token id"),
        ({"answers": [[True], [True]]}, r"must have one length .* in column answers"),
        ({"input_ids": [[5.5, 6.5], [7.0, 8.0]]}, "must be lists of whole numbers, got list<"),
    ],
)
def test_a_finish_refuses_the_same_files(tmp_path, tiny_llama_dir, columns, message):
    file = tmp_path / "w.parquet"
    pq.write_table(pa.table({"input_ids": [[5, 6], [7, 8]], **columns}), file)
    with pytest.raises(ArtifactError, match=message):
        stream_windows(tiny_llama_dir, file, tmp_path)
    with pytest.raises(ArtifactError):
        read_windows(file)


def test_a_finish_compares_its_windows_with_their_digest(answers, tiny_llama_dir, tmp_path):
    file = tmp_path / "w.parquet"
    write_windows(file, answers, {"corpus": "x"})
    table = pq.read_table(file)
    ids = pa.array(tiny.ids(2, 4, seed=1).tolist(), pa.list_(pa.int32()))
    pq.write_table(table.set_column(table.column_names.index("input_ids"), "input_ids", ids), file)
    with pytest.raises(ArtifactError, match="its digest says that it does not"):
        stream_windows(tiny_llama_dir, file, tmp_path)


def test_a_folder_without_room_is_named_in_place_of_the_windows(tiny_llama_dir, tmp_path):
    write_windows(tmp_path / "w.parquet", tiny.ids(6, 10), {"corpus": "x"})
    with pytest.raises(ArtifactError, match=r"no/such: must have room for .* MiB of windows \(no"):
        stream_windows(tiny_llama_dir, tmp_path / "w.parquet", tmp_path / "no/such")


def test_a_digest_is_the_same_however_a_file_is_cut(windows, tmp_path, monkeypatch):
    write_windows(tmp_path / "w.parquet", windows, {"corpus": "x"})
    monkeypatch.setattr("fusegpt.data.windows.ROWS", 4)
    assert check_content(tmp_path / "w.parquet")
