"""The layout: names to paths and back."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusegpt.results import layout as at
from fusegpt.results.point import Place, Point

NAMES = {
    "model": "tiny",
    "recipe": "fusegpt-01234567",
    "k": "007",
    "shard": "2-of-4",
    "sparsity": "0.25",
    "part": "0123456789abcdef",
    "place": "step-007",
    "windows": "docs-train-89abcdef",
    "generated": "own-89abcdef",
    "scores": "macro_influence-89abcdef",
    "answers": "docs-train-89abcdef-01234567",
    "evaluation": "docs",
    "experiment": "study",
    "export": "gguf-q8_0",
}
STEP = Point("tiny", "fusegpt-01234567", Place.step(7))
SLICE = Point("tiny", "slicegpt-01234567", Place.sparsity("0.25"))


def touch(folder: Path, *files: str) -> None:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()


def test_a_pattern_is_what_rules_say():
    assert at.manifest == "results/runs/{model}/{recipe}/step-{k}/manifest.json"
    assert at.sliced == "results/slices/{model}/{recipe}/sparsity-{sparsity}/fusegpt.json"
    assert at.evaluation.partly(evaluation="docs") == (
        "results/evaluations/{model}/{recipe}/{place}/docs.json"
    )


def test_rules_get_plain_text():
    assert at.patterns().manifest == at.manifest and not callable(at.patterns().manifest)
    assert {str(pattern) for pattern in at.PATTERNS} == set(vars(at.patterns()).values())


def test_a_point_fills_a_pattern_in():
    assert at.manifest(STEP) == "results/runs/tiny/fusegpt-01234567/step-007/manifest.json"
    assert at.manifest(model="m", recipe="r", k=12) == "results/runs/m/r/step-012/manifest.json"
    assert at.evaluation(SLICE, evaluation="docs") == (
        "results/evaluations/tiny/slicegpt-01234567/sparsity-0.25/docs.json"
    )


def test_a_missing_name_is_an_error():
    with pytest.raises(KeyError):
        at.manifest(model="tiny")


def test_a_results_folder_may_have_any_name(tmp_path):
    folder = tmp_path / "a {model} [x]"

    file = at.card.under(folder, STEP)

    assert file == folder / "cards/tiny/fusegpt-01234567/step-007.md"
    touch(folder, "cards/tiny/fusegpt-01234567/step-007.md")
    assert [found.path for found in at.card.found_in(folder)] == [file]


@pytest.mark.parametrize("pattern", at.PATTERNS, ids=str)
def test_every_path_is_read_back_as_what_it_is(pattern):
    path = pattern(**NAMES)

    found = at.parse(path)

    assert found is not None and found.kind == pattern
    assert pattern(**found.names) == path
    assert found.names.items() <= NAMES.items()


@pytest.mark.parametrize(
    "path",
    [
        "results/runs/tiny/fusegpt-0/notes.txt",
        "results/runs/tiny/fusegpt-0/step-7/manifest.json",
        "results/evaluations/tiny/dense/final/docs.json",
        f"results/runs/tiny/fusegpt-0/step-001/manifest.json.tmp-{'0' * 32}",
        f"results/models/tiny.tmp-{'0' * 32}",
        "results/models/.tiny.lock",
    ],
)
def test_what_is_not_ours_is_nothing(path):
    assert at.parse(path) is None


def test_what_is_there_is_found_with_its_point(tmp_path):
    files = [
        "runs/a/r-1/step-001/manifest.json",
        "runs/a/r-1/step-010/manifest.json",
        "runs/b/r-1/step-002/manifest.json",
    ]
    touch(tmp_path, *files, "runs/a/r-1/step-x/manifest.json", "runs/a/r-1/step-002/scores.json")

    found = at.manifest.found_in(tmp_path)

    assert [one.path for one in found] == [tmp_path / file for file in files]
    assert [one.point for one in found] == [
        Point("a", "r-1", Place.step(1)),
        Point("a", "r-1", Place.step(10)),
        Point("b", "r-1", Place.step(2)),
    ]
    assert at.manifest.found_in(tmp_path, model="a", k=10) == found[1:2]


def test_places_of_both_kinds_are_found(tmp_path):
    files = [f"evaluations/a/r-1/{place}/docs.json" for place in ("sparsity-0.5", "step-001")]
    touch(tmp_path, *files)

    places = [found.place for found in at.evaluation.found_in(tmp_path)]

    assert places == [Place.sparsity("0.5"), Place.step(1)]


def test_leftovers_are_no_results(tmp_path):
    left = f"models/tiny.tmp-{'0' * 32}"
    touch(tmp_path, f"{left}/source.json", "models/tiny/source.json")

    assert [found.names["model"] for found in at.source.found_in(tmp_path)] == ["tiny"]
    assert list(at.leftovers(tmp_path)) == [tmp_path / left]


def test_a_place_decides_where_the_model_lies():
    assert at.measured(Point.dense("tiny")) == "results/models/tiny/source.json"
    assert at.measured(STEP) == at.manifest(STEP) and at.published(STEP) == at.checkpoint(STEP)
    assert at.measured(SLICE) == at.published(SLICE) == at.sliced(SLICE)


def test_a_directory_is_told_by_the_record_in_it(tmp_path):
    assert at.record_in(tmp_path) is None
    touch(tmp_path, "source.json")
    assert (
        at.record_in(tmp_path) == at.record_in(tmp_path / "source.json") == tmp_path / "source.json"
    )
    touch(tmp_path, "fusegpt.json")
    assert at.record_in(tmp_path) == tmp_path / "fusegpt.json"
