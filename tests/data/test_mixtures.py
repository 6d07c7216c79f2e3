"""Windows of several corpora, of token ids, and of single documents; where BOS stands."""

import copy
import json
import re
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fusegpt.data.cutting import shared_out
from fusegpt.data.sampling import sample
from fusegpt.data.tokens import encode, load_tokenizer, usual_bos
from fusegpt.data.windows import read_meta
from fusegpt.errors import ArtifactError, ConfigError, DataError


@pytest.fixture
def texts(tmp_path):
    """Two corpora of 20 documents, of ones and of twos."""
    files = []
    for word in ("1", "2"):
        file = tmp_path / f"{word}.jsonl"
        rows = [json.dumps({"text": word * (number + 4)}) for number in range(20)]
        file.write_text("\n".join(rows))
        files.append(str(file))
    return files


def mix(texts, *shares):
    return [{"name": name, "share": share} for name, share in zip(texts, shares, strict=True)]


def test_each_window_is_of_one_corpus_and_shares_hold_from_the_start(tiny_llama_dir, texts):
    windows = sample(tiny_llama_dir, mix(texts, 0.75, 0.25), length=8, sequences=8)
    tokenizer = load_tokenizer(tiny_llama_dir)
    of = ["1" in tokenizer.decode(row) for row in windows]
    assert of.count(True) == 6 and of[:4].count(True) == 3
    assert all(len(set(tokenizer.decode(row)) & set("12")) == 1 for row in windows)
    fewer = sample(tiny_llama_dir, mix(texts, 0.75, 0.25), length=8, sequences=5)
    assert torch.equal(fewer, windows[:5])
    other = sample(tiny_llama_dir, mix(texts, 0.75, 0.25), length=8, sequences=8, seed=1)
    assert not torch.equal(other, windows)


def test_windows_that_overlap_for_want_of_text_are_told(tiny_llama_dir, texts, caplog):
    with caplog.at_level("INFO", logger="fusegpt"):
        sample(tiny_llama_dir, texts[0], length=8, sequences=2)
        assert "overlap" not in caplog.text
        sample(tiny_llama_dir, texts[0], length=8, sequences=10_000)
    assert re.search(r"windows overlap: .* has \d+ tokens for 80000", caplog.text)


def test_windows_of_a_mixture_are_those_of_its_corpora(tiny_llama_dir, texts):
    mixed = sample(tiny_llama_dir, mix(texts, 0.5, 0.5), length=8, sequences=6)
    alone = [sample(tiny_llama_dir, text, length=8, sequences=3) for text in texts]
    assert sorted(mixed.tolist()) == sorted([*alone[0].tolist(), *alone[1].tolist()])


def test_shares_out_to_the_nearest_window():
    assert shared_out([0.5, 0.3, 0.2], 10) == [5, 3, 2]
    assert shared_out([1 / 3, 1 / 3, 1 / 3], 4) == [2, 1, 1]


@pytest.mark.parametrize("shares", [(0.5, 0.4), (1.0, 0.0), (1.5, -0.5), (0.5, float("nan"))])
def test_shares_must_be_above_zero_and_sum_to_one(tiny_llama_dir, texts, shares):
    with pytest.raises(ConfigError, match="shares must be above 0 and sum to 1, got"):
        sample(tiny_llama_dir, mix(texts, *shares), length=8, sequences=4)


def test_a_share_that_gets_no_window_is_refused(tiny_llama_dir, texts):
    with pytest.raises(ConfigError, match=r"2.jsonl gets none of 3 windows by its share"):
        sample(tiny_llama_dir, mix(texts, 0.9, 0.1), length=8, sequences=3)
    with pytest.raises(ConfigError, match="must list tables with name and share"):
        sample(tiny_llama_dir, [{"name": "x"}], length=8, sequences=3)
    with pytest.raises(ConfigError, match="rows: must not be given with a mixture"):
        sample(tiny_llama_dir, mix(texts, 0.5, 0.5), length=8, rows=3)


def test_one_document_a_window_is_cut_off_or_padded(tiny_llama_dir, texts):
    windows = sample(tiny_llama_dir, texts[0], length=10, sequences=20, cut="documents")
    tokenizer = load_tokenizer(tiny_llama_dir)
    sizes = sorted(min(10, len(encode(tokenizer, "1" * (n + 4)))) for n in range(20))
    assert sorted(windows.lengths) == sizes
    with pytest.raises(DataError, match="21 windows of one document asked, 20 of 20 documents"):
        sample(tiny_llama_dir, texts[0], length=10, sequences=21, cut="documents")


def test_documents_that_all_fill_their_window_need_no_mask(tiny_llama_dir, texts):
    windows = sample(tiny_llama_dir, texts[0], length=2, sequences=5, cut="documents")
    assert type(windows) is torch.Tensor


def test_bos_opens_every_window_where_asked(tiny_llama_dir, texts):
    plain = sample(tiny_llama_dir, texts[0], length=8, sequences=4)
    opened = sample(tiny_llama_dir, texts[0], length=9, sequences=4, bos="window")
    assert opened[:, 0].tolist() == [load_tokenizer(tiny_llama_dir).bos_token_id] * 4
    assert torch.equal(opened[:, 1:], plain)
    alone = sample(tiny_llama_dir, texts[0], length=9, sequences=4, bos="window", cut="documents")
    assert set(alone[:, 0].tolist()) == {load_tokenizer(tiny_llama_dir).bos_token_id}


def test_gemma_has_bos_in_every_window_unless_told_otherwise(tiny_llama_dir, texts, tmp_path):
    tokenizer = load_tokenizer(tiny_llama_dir)
    assert usual_bos(tiny_llama_dir, tokenizer) == "stream"
    named = copy.copy(tokenizer)
    named.__class__ = type("GemmaTokenizer", (type(tokenizer),), {})
    assert usual_bos(tiny_llama_dir, named) == "window"
    named.bos_token = None
    assert usual_bos(tiny_llama_dir, named) == "stream"
    gemma = tmp_path / "gemma"
    shutil.copytree(tiny_llama_dir, gemma)
    config = json.loads((gemma / "config.json").read_text())
    (gemma / "config.json").write_text(json.dumps({**config, "model_type": "gemma2"}))
    windows = sample(gemma, texts[0], length=8, sequences=2, output=tmp_path / "w.parquet")
    bos = load_tokenizer(tiny_llama_dir).bos_token_id
    assert windows[:, 0].tolist() == [bos] * 2
    assert read_meta(tmp_path / "w.parquet").to_json()["bos"] == "window"
    told = sample(gemma, texts[0], length=8, sequences=2, bos="stream")
    assert torch.equal(told, sample(tiny_llama_dir, texts[0], length=8, sequences=2))


def test_token_ids_of_others_are_a_corpus(tiny_llama_dir, tmp_path):
    file = tmp_path / "ids.parquet"
    pq.write_table(pa.table({"input_ids": [[5, 6, 7], [8, 9], [10, 11, 12, 13]]}), file)
    windows = sample(tiny_llama_dir, str(file), length=3, sequences=3, cut="documents")
    rows = [row[:n].tolist() for row, n in zip(windows.plain(), windows.lengths, strict=True)]
    assert sorted(rows) == [[5, 6, 7], [8, 9], [10, 11, 12]]
    packed = sample(tiny_llama_dir, str(file), length=9, rows=3)
    assert sorted(packed[0].tolist()) == [5, 6, 7, 8, 9, 10, 11, 12, 13]
    pq.write_table(pa.table({"input_ids": [[5, 6], [7, 9999]]}), file)
    with pytest.raises(DataError, match="token ids must be from 0 to"):
        sample(tiny_llama_dir, str(file), length=2, rows=2)
    pq.write_table(pa.table({"input_ids": ["five"]}), file)
    with pytest.raises(ArtifactError, match="row 1: input_ids must be a list of whole numbers"):
        sample(tiny_llama_dir, str(file), length=2, rows=1)


def test_rows_of_token_ids_that_tell_no_answers_count_whole(tiny_llama_dir, tmp_path):
    file = tmp_path / "ids.jsonl"
    rows = [(range(10, 14), [0, 0, 1, 1]), (range(20, 24), None), (range(30, 34), [0, 1, 0, 0])]
    lines = [json.dumps({"input_ids": list(ids), "answers": told}) for ids, told in rows]
    file.write_text("\n".join(lines))
    counts = {12: True, 13: True, **dict.fromkeys(range(20, 24), True), 31: True}
    for cut in ("joined", "documents"):
        asked = {"length": 4, "sequences": 3, "cut": cut, "bos": "none"}
        windows = sample(tiny_llama_dir, str(file), **asked, predict="answers")
        for ids, told in zip(windows.plain().tolist(), windows.answers.tolist(), strict=True):
            assert told == [counts.get(token, False) for token in ids]


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"mask": [False, True, True]}, "row 1: mask must be false behind a row's tokens alone"),
        (
            {"mask": [True, True]},
            "row 1: mask must hold true or false for each of 3 token ids, got",
        ),
        ({"answers": [True, True]}, "row 1: answers must hold true or false for each of 3 token"),
        ({"answers": ["yes", "no", "no"]}, "row 1: answers must hold true or false for each of 3"),
    ],
)
def test_masks_of_token_ids_that_mean_nothing_are_refused(tiny_llama_dir, tmp_path, masks, message):
    file = tmp_path / "ids.parquet"
    pq.write_table(pa.table({"input_ids": [[5, 6, 7]], **{k: [v] for k, v in masks.items()}}), file)
    with pytest.raises(ArtifactError, match=message):
        sample(tiny_llama_dir, str(file), length=2, sequences=1)


def test_token_ids_are_compared_with_the_digest_of_their_file(tiny_llama_dir, texts, tmp_path):
    file = tmp_path / "w.parquet"
    sample(tiny_llama_dir, texts[0], length=8, sequences=2, output=file)
    table = pq.read_table(file)
    other = pa.array([list(range(8))] * 2, pa.list_(pa.int32()))
    pq.write_table(table.set_column(0, "input_ids", other), file)
    with pytest.raises(ArtifactError, match="its digest says that it does not"):
        sample(tiny_llama_dir, str(file), length=4, sequences=2)
