"""A file that is not what was written is told from one that is, and old ones are taken."""

from __future__ import annotations

import json

import pytest

from fusegpt.errors import ArtifactError
from fusegpt.results.base import read, write
from fusegpt.results.digests import (
    append_digest,
    check_text,
    has_digest,
    read_whole,
    without_digest,
)
from fusegpt.results.recovered import Training

ROWS = Training.model_validate({"rows": [{"step": 0, "loss": 1.5}]})


def test_a_record_whose_value_changed_is_refused_with_its_file(tmp_path):
    file = tmp_path / "training.json"
    write(file, ROWS)
    assert read(file, Training) == ROWS and has_digest(file)
    file.write_text(file.read_text().replace("1.5", "1.6"))

    with pytest.raises(ArtifactError, match=r"training\.json: must be what was written, its dig"):
        read(file, Training)


def test_a_record_written_in_another_form_is_the_same(tmp_path):
    file = tmp_path / "training.json"
    write(file, ROWS)
    value = json.loads(file.read_text())
    file.write_text(json.dumps(dict(reversed(value.items()))))

    assert read(file, Training) == ROWS


def test_a_record_without_a_digest_is_taken_as_it_is(tmp_path):
    file = tmp_path / "training.json"
    write(file, ROWS)
    value = json.loads(file.read_text())
    del value["digest"]
    value["rows"][0]["loss"] = 7.0
    file.write_text(json.dumps(value))

    assert read(file, Training).rows[0].loss == 7.0 and not has_digest(file)


@pytest.mark.parametrize("said", [None, 3, "", [], "0" * 64])
def test_a_digest_that_is_none_is_refused(said, tmp_path):
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"a": 1, "digest": said}))

    with pytest.raises(ArtifactError, match="must be what was written"):
        read_whole(file)


@pytest.mark.parametrize("text", ["", "a", "a\n", "# Käse\n\n<!-- a -->\n", "<svg/>"])
def test_a_text_keeps_what_it_says_and_knows_when_it_was_changed(text, tmp_path):
    file = tmp_path / "card.md"
    file.write_text(text, encoding="utf-8")
    assert check_text(file) is False
    append_digest(file)
    whole = file.read_text(encoding="utf-8")
    assert check_text(file) and without_digest(whole) == text

    file.write_text(f"b{whole}", encoding="utf-8")

    with pytest.raises(ArtifactError, match=r"card\.md: must be what was written"):
        check_text(file)
