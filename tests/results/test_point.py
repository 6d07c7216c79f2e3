"""Points: which model, which recipe, how far."""

from __future__ import annotations

import pytest

from fusegpt.results.point import Place, Point


def test_a_place_is_named_as_its_directory():
    assert Place.step(7).name == "step-007"
    assert Place.sparsity("0.25").name == str(Place.sparsity(0.25)) == "sparsity-0.25"


@pytest.mark.parametrize("place", [Place.step(0), Place.step(1234), Place.sparsity("0.3")])
def test_a_name_gives_the_place_back(place):
    assert Place.parse(place.name) == place


@pytest.mark.parametrize("name", ["step-7", "step-x12", "sparsity-", "sparsity-many", "dense", ""])
def test_what_is_no_place_is_refused(name):
    with pytest.raises(ValueError):
        Place.parse(name)


def test_steps_are_ordered_by_number_and_stand_before_sparsities():
    names = ["sparsity-0.5", "step-1000", "sparsity-0.25", "step-999", "step-002"]

    found = [place.name for place in sorted(map(Place.parse, names))]

    assert found == ["step-002", "step-999", "step-1000", "sparsity-0.25", "sparsity-0.5"]


def test_only_a_step_counts_removals():
    assert Place.step(7).number == 7 and not Place.step(7).slices
    assert Place.sparsity("0.25").number == 0 and Place.sparsity("0.25").slices


@pytest.mark.parametrize("place", [Place.step(0), Place.sparsity("0.0"), Place.sparsity("0")])
def test_where_nothing_is_gone_there_is_the_dense_model(place):
    assert Point.on("tiny", "fusegpt-01234567", place) == Point.dense("tiny")
    assert Point.on("tiny", "dense", Place.step(3)).is_dense
    assert not Point.on("tiny", "fusegpt-01234567", Place.step(1)).is_dense
