import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fusegpt.data.files import read_documents
from fusegpt.errors import DataError

ROWS = ["first\n", "", "third é"]


@pytest.fixture(params=["text.parquet", "page.parquet", "a.jsonl", "a.json.gz"])
def file(request, tmp_path):
    path = tmp_path / request.param
    lines = "".join(json.dumps({"text": row, "url": "x"}) + "\n" for row in ROWS)
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"url": ["x"] * 3, path.stem: ROWS}), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        path.write_text(lines, encoding="utf-8")
    return path


def test_every_kind_of_file_gives_its_rows(file):
    assert read_documents(file) == ROWS


def test_missing_texts_are_empty(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": null}\n{"text": "one"}\n')
    pq.write_table(pa.table({"text": [None, "one"]}), tmp_path / "a.parquet")
    assert read_documents(tmp_path / "a.jsonl") == read_documents(tmp_path / "a.parquet")
    assert read_documents(tmp_path / "a.jsonl") == ["", "one"]


def test_texts_that_are_no_strings_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": ["one"]}\n')
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        with pytest.raises(DataError, match="texts must be strings, got"):
            read_documents(tmp_path / name)


def test_a_limit_takes_the_first_documents(file):
    assert read_documents(file, 2) == ROWS[:2]


def test_more_documents_than_there_are_is_refused(file):
    with pytest.raises(DataError, match="4 documents asked, 3 there"):
        read_documents(file, 4)


def test_a_text_file_is_one_document(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo", encoding="utf-8")
    assert read_documents(tmp_path / "a.txt") == ["one\n\ntwo"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"x", r"must be one of \.parquet, \.jsonl, \.gz, \.txt, got '\.csv'"),
        ("a.parquet", b"nonsense", "cannot be read"),
        ("a.jsonl", b"{", r"a.jsonl: line 1: must be one JSON object, got \{; Expecting"),
        (
            "a.jsonl",
            b'{"text": ""}\n\n{"text": 1',
            r"line 3: .* got \{\"text\": 1; .* at character 11",
        ),
        ("a.jsonl", b"[1, 2]", r"a.jsonl: line 1: must be one JSON object, got \[1, 2\]$"),
        (
            "a.jsonl",
            b'{"body": "x"}',
            "'text' or 'page', has body; conversations .* `fusegpt sample`",
        ),
        ("a.gz", b"plain", "cannot be read"),
        ("a.txt", b"\xff\xff", "cannot be read"),
    ],
)
def test_an_unreadable_file_is_named_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_documents(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.txt: no such file"):
        read_documents(tmp_path / "gone.txt")
