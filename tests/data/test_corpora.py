import time

import pytest

from fusegpt.data import CORPORA
from fusegpt.data.corpora import load_text
from fusegpt.errors import ConfigError, DataError, UnknownNameError


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"text": "one"}\n{"text": "two"}\n{"text": "three"}\n')
    return path


def test_every_corpus_has_a_loader():
    assert all(callable(entry.load()) for entry in CORPORA.values())


def paragraphs(split):
    return {" ".join(p.split()) for p in load_text("python_docs", split).text.split("\n\n")}


def test_the_splits_of_the_python_docs_share_no_paragraph():
    assert not paragraphs("train") & paragraphs("test")


def test_about_a_fifth_of_the_python_docs_is_for_testing():
    sizes = {split: len(load_text("python_docs", split).text) for split in ("train", "test")}
    assert 0.1 < sizes["test"] / sum(sizes.values()) < 0.3


def test_the_python_docs_say_which_python():
    import platform

    assert load_text("python_docs", "test").variant == f"python-{platform.python_version()}"


def test_a_file_is_joined_by_an_empty_line(file):
    text = load_text(str(file), "test")
    assert text.text == "one\n\ntwo\n\nthree"
    assert (text.name, text.source) == ("mine.jsonl", "file:mine.jsonl")


def test_an_entry_points_a_split_at_a_file(file):
    entry = {"splits": {"train": str(file)}, "join": " ", "documents": 2, "variant": "short"}
    text = load_text("wikitext2", "train", {"wikitext2": entry})
    assert (text.text, text.name, text.variant) == ("one two", "wikitext2", "short")


def test_an_entry_may_change_only_the_join_of_a_built_in_corpus():
    text = load_text("python_docs", "test", {"python_docs": {"join": "<>", "documents": 2}})
    assert text.documents == 2 and text.text.count("<>") == 1


def test_an_empty_entry_changes_nothing():
    assert load_text("python_docs", "test", {"python_docs": None}).documents > 1


def test_a_split_that_is_not_there_is_never_replaced(file):
    with pytest.raises(DataError, match="'wikitext2': no split 'test'; it has: train"):
        load_text("wikitext2", "test", {"wikitext2": {"splits": {"train": str(file)}}})
    with pytest.raises(
        DataError, match="'python_docs': no split 'validation'; it has: train, test"
    ):
        load_text("python_docs", "validation")


def test_an_unknown_key_or_name_is_refused():
    with pytest.raises(ConfigError, match=r"corpora.c4: unknown key 'jion'; known: splits, join"):
        load_text("c4", "train", {"c4": {"jion": " "}})
    with pytest.raises(UnknownNameError, match="unknown corpus 'wikitext'; did you mean"):
        load_text("wikitext", "test")


def test_a_file_that_is_not_there_is_no_unknown_name():
    with pytest.raises(DataError, match=r"^data/chats\.jsonl: no such file"):
        load_text("data/chats.jsonl", "train")


def test_a_file_without_text_is_refused(tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(DataError, match=r"no text in file:empty.txt"):
        load_text(str(tmp_path / "empty.txt"), "test")


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """A hub client that is not told to be offline, with an empty cache and a closed port."""
    from huggingface_hub import constants, file_download

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(file_download, "HF_HUB_CACHE", str(tmp_path), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name in (
        "https_proxy",
        "HTTPS_PROXY",
        "http_proxy",
        "HTTP_PROXY",
        "ALL_PROXY",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)


def test_an_unreachable_hub_is_said_within_seconds(no_hub, monkeypatch):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with pytest.raises(DataError, match=r"http://127.0.0.1:9 cannot be reached; name a local file"):
        load_text("c4", "validation")
    assert sum(waits) < 6


def test_the_offline_switch_is_named(monkeypatch, no_hub):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="not in the hub's cache, and HF_HUB_OFFLINE is set"):
        load_text("wikitext2", "test")


def test_a_cached_hub_file_needs_no_hub(monkeypatch, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from fusegpt.data import corpora

    pq.write_table(pa.table({"text": ["a", "", "b"]}), tmp_path / "t.parquet")
    monkeypatch.setattr(corpora, "dataset_file", lambda *_: tmp_path / "t.parquet")
    text = load_text("wikitext2", "test")
    assert (text.text, text.variant) == ("a\n\n\n\nb", "wikitext-2-raw-v1")
    assert text.source.startswith("hub:Salesforce/wikitext@b08601e0")


def test_c4_new_is_1100_documents_joined_by_a_space(monkeypatch, tmp_path):
    from fusegpt.data import corpora

    path = tmp_path / "c4.jsonl"
    path.write_text("".join(f'{{"text": "d{i}"}}\n' for i in range(1200)))
    monkeypatch.setattr(corpora, "dataset_file", lambda *_: path)
    text = load_text("c4", "validation")
    assert text.variant == "c4-new"
    assert text.text.split(" ") == [f"d{i}" for i in range(1100)]
    assert load_text("c4", "validation", {"c4": {"join": "\n"}}).variant == "c4"


@pytest.mark.network
@pytest.mark.parametrize(("name", "split"), [("wikitext2", "test"), ("c4", "validation")])
def test_the_hub_serves_the_pinned_corpora(name, split):
    assert len(load_text(name, split).text) > 1_000_000


@pytest.mark.shared_data
def test_wikitext_rows_join_as_the_literature_does(shared_data):
    entry = {"splits": {"test": str(shared_data("wikitext2/raw_test.parquet"))}}
    text = load_text("wikitext2", "test", {"wikitext2": entry})
    assert text.documents == 4358
    assert text.text.startswith("\n\n = Robert Boulter = \n\n\n\n")
