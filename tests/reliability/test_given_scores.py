"""A step takes scores that were made for it, and no others."""

from __future__ import annotations

import dataclasses
import json

import pytest

from fusegpt.artifacts import sha256
from fusegpt.errors import ArtifactError
from fusegpt.pruning.given import check_scores
from fusegpt.pruning.jobs import fuse_model
from fusegpt.pruning.recipe import resolve
from fusegpt.results import layout as at
from fusegpt.results.base import read
from fusegpt.results.records import Scores
from tests.results.conftest import RUN, make_chain, unit

RECIPE = resolve("mine", {"importance": {"metric": "random"}, "recovery": {"method": "none"}})


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Three steps without blocks 3, 2 and 4; read-only."""
    folder = tmp_path_factory.mktemp("chain") / "results"
    make_chain(folder)
    return folder


def manifest(results, k: int):
    return at.manifest.under(results, **RUN, k=k)


def scores(results, k: int = 2, **changes) -> Scores:
    """Scores of a step's model, before the next; blocks 0 and 1, of which 1 goes."""
    before = manifest(results, k)
    values = {
        "kind": "scores",
        "step": k + 1,
        "metric": "random",
        "settings": RECIPE.importance.own(),
        "units": [{**unit(0), "score": 0.5}, {**unit(1), "score": 0.25}],
        "selected": unit(1),
        "recipe": RECIPE.id,
        "parent": {"path": "../manifest.json", "sha256": sha256(before)},
    }
    kept = {key: value for key, value in (values | changes).items() if value is not ...}
    return Scores.model_validate(kept)


@pytest.mark.parametrize("k", [0, 2])
def test_scores_of_this_step_are_taken(results, k):
    check_scores(scores(results, k), "s.json", RECIPE, manifest(results, k))


@pytest.mark.parametrize("key", ["recipe", "parent", "step", "settings"])
def test_what_scores_do_not_say_is_not_asked_for(results, key):
    check_scores(scores(results, **{key: ...}), "s.json", RECIPE, manifest(results, 2))


def test_scores_of_the_dense_model_belong_to_its_step_000(results):
    source = at.source.under(results, model="tiny")
    mine = scores(results, 0, parent={"path": "x", "sha256": sha256(source)})
    check_scores(mine, "s.json", RECIPE, manifest(results, 0))

    with pytest.raises(ArtifactError, match=r"must be scores of the model of .*step-002/manifest"):
        check_scores(mine.plus(step=3), "s.json", RECIPE, manifest(results, 2))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"recipe": "other-00000000"}, "for recipe mine-.*, got those for other-00000000"),
        ({"metric": "sleb"}, "by random, got those by sleb"),
        ({"settings": {"protect_first": 3}}, "by random with .*, got {'protect_first': 3}"),
        ({"parent": {"path": "../m", "sha256": "00"}}, "of the model of .*, got those of another"),
        ({"selected": None}, "with a selected unit, got none"),
        ({"step": 2}, "for step 3, got those for step 2"),
        ({"selected": unit(3)}, "of units that the model has, got block 3"),
        ({"selected": unit(99)}, "of units that the model has, got block 99"),
        ({"units": [{**unit(2), "score": 1.0}]}, "of units that the model has, got block 2"),
        ({"selected": {**unit(1), "granularity": "mlp"}}, "of granularity block, got a selected"),
        ({"selected_units": [unit(1), unit(0)]}, "for step 4, got those for step 3"),
    ],
)
def test_scores_of_something_else_are_refused(results, changes, said):
    with pytest.raises(ArtifactError, match=rf"s\.json: must be scores {said}") as caught:
        check_scores(scores(results, **changes), "s.json", RECIPE, manifest(results, 2))

    assert "\n" not in str(caught.value)


def test_another_recipe_of_the_same_metric_is_another(results):
    sections = {"importance": {"metric": "random"}, "recovery": {"method": "none"}}
    tuned = resolve("mine", {**sections, "dtype": "float32"})

    with pytest.raises(ArtifactError, match="must be scores for recipe"):
        check_scores(scores(results), "s.json", tuned, manifest(results, 2))


def test_fuse_asks_before_it_loads_anything(results, tmp_path):
    file = tmp_path / "scores.json"
    file.write_text(json.dumps(scores(results, step=7).to_json()))
    assert read(file, Scores).step == 7

    with pytest.raises(ArtifactError, match="for step 3, got those for step 7"):
        fuse_model(manifest(results, 2), dataclasses.replace(RECIPE), file, tmp_path / "out")
    assert not (tmp_path / "out").exists()
