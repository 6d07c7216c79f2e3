"""Which evaluations share a process."""

from __future__ import annotations

import re
from pathlib import Path

from fusegpt.workflow.experiment import make_plan
from fusegpt.workflow.together import together

ROOT = Path(__file__).resolve().parents[2]
TEXT = {"eval": "perplexity", "corpus": "python_docs", "split": "test", "length": 32}


def sets(**experiments):
    """The sets of an experiment for each keyword: its recipes, sparsities and evaluations."""
    config = {
        "models": {"a.b": {"source": "dir:a", "num_blocks": 4}},
        "evaluations": {
            "one": TEXT,
            "two": TEXT,
            "exact": {**TEXT, "dtype": "float32"},
            "speed": {"eval": "speed"},
            "one.two": TEXT,
            "one-two": TEXT,
            **{f"a-rather-long-name-{i}": TEXT for i in range(4)},
        },
        "recipes": {"cut": {"importance": {"metric": "sleb"}, "recovery": {"method": "none"}}},
        "experiments": {
            name: {
                "models": ["a.b"],
                "recipes": recipes,
                "sparsities": sparsities,
                "evaluations": evaluations,
            }
            for name, (recipes, sparsities, evaluations) in experiments.items()
        },
    }
    return together(make_plan(config, ROOT / "config/recipes"))


def labels(*evaluations):
    return [found.label for found in sets(x=(["dense"], [0.25], list(evaluations)))]


def test_one_dtype_is_one_process_and_a_comparison_of_models_is_alone():
    assert labels("speed", "two", "exact", "one") == ["one_two", "exact", "speed"]


def test_labels_are_short_and_distinct():
    assert labels(*(f"a-rather-long-name-{i}" for i in range(4))) == [
        "a_rather_long_name_0_and_3_more"
    ]
    found = sets(
        x=(["dense"], [0.25], ["one", "two"]),
        y=(["cut"], [0.25], ["one.two"]),
        z=(["cut"], [0.5], ["one-two"]),
    )
    names = [each.label for each in found]
    assert names[0] == "one_two" and len(set(names)) == 3
    assert all(re.fullmatch(r"one_two_[0-9a-f]{8}", name) for name in names[1:])


def test_an_experiment_asked_for_alone_gets_nothing_else():
    found = sets(
        x=(["dense", "cut"], [0.25, 0.5], ["one"]),
        y=(["cut"], [0.5], ["one", "two", "exact"]),
        z=(["cut"], [0.75], ["one", "two"]),
    )

    by_names = {each.evaluations: each for each in found}
    assert set(by_names) == {("one",), ("two",), ("exact",), ("one", "two")}
    cut = by_names["one", "two"].points[0].recipe
    matches = {
        names: {
            f"{recipe}-{k}"
            for recipe in ("dense", cut)
            for k in ("000", "001", "002", "003")
            for model in ("a.b", "axb")
            if re.match(f"(?P<model>{each.models})/", f"{model}/{recipe}/step-{k}/one.json")
        }
        for names, each in by_names.items()
    }
    assert matches["one",] == {"dense-000", f"{cut}-001", f"{cut}-002"}
    assert matches["two",] == matches["exact",] == {f"{cut}-002"}
    assert matches["one", "two"] == {f"{cut}-003"}
