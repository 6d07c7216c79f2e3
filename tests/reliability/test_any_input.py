"""Whatever a record or a file of settings holds: a value, or one line that says what is wrong."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusegpt.errors import ArtifactError, ConfigError, FuseGPTError
from fusegpt.pruning.recipe import resolve
from fusegpt.results.base import read, read_object, write
from fusegpt.results.contents import parse_contents
from fusegpt.results.models import read_checkpoint
from fusegpt.results.records import read_manifest
from fusegpt.workflow.experiment import make_plan
from fusegpt.yaml_files import read_yaml
from tests.reliability.test_settings import RECIPES
from tests.results.test_records import EXAMPLES
from tests.workflow.conftest import configuration

QUICK = settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
OFTEN = settings(QUICK, max_examples=300, derandomize=False)

words = st.text(max_size=6) | st.sampled_from(["block", "mlp", "fusegpt", "../x", "1e-3", "a\nb"])
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, -1, 2**31, 10**30])
    | st.floats()
    | words
)
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)


def places(value: Any, above: tuple = ()) -> list[tuple]:
    """Where anything stands in nested tables and lists."""
    found = [above]
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in pairs:
        found += places(inner, (*above, key)) if isinstance(inner, dict | list) else [(*above, key)]
    return found


@st.composite
def spoilt(draw: st.DrawFn, whole: Any) -> Any:
    """A value with up to three things in it changed, left out or added."""
    value = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 3))):
        if not isinstance(value, dict | list):
            break
        place = draw(st.sampled_from(places(value)))
        if not place:
            change = draw(st.integers(0, 9))
            if change == 0:
                return draw(st.dictionaries(words, anything, max_size=3))
            if isinstance(value, dict):
                value[draw(words)] = draw(anything)
            continue
        inner = value
        for key in place[:-1]:
            inner = inner[key]
        if draw(st.booleans()):
            inner[place[-1]] = draw(anything)
        else:
            del inner[place[-1]]
    return value


def one_line(error: FuseGPTError, begins: str = "") -> None:
    assert str(error).startswith(begins) and "\n" not in str(error)


def check_record(model: type, value: Any, folder: Any) -> None:
    """A file is a record that comes back as written, or one line that begins with its name."""
    file = folder / "record.json"
    file.write_text(json.dumps(value), encoding="utf-8")
    try:
        record = read(file, model)
    except ArtifactError as error:
        one_line(error, f"{file}: ")
        return
    write(folder / "again.json", record)
    again = read(folder / "again.json", model)
    assert again == record and again.to_json() == record.to_json()


@pytest.mark.parametrize("model", EXAMPLES, ids=lambda model: model.__name__)
def test_any_json_is_a_record_or_one_line(model, tmp_path):
    @QUICK
    @given(spoilt(EXAMPLES[model]))
    def check(value):
        check_record(model, value, tmp_path)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("model", EXAMPLES, ids=lambda model: model.__name__)
def test_very_many_are(model, tmp_path):
    @OFTEN
    @given(spoilt(EXAMPLES[model]) | anything)
    def check(value):
        check_record(model, value, tmp_path)

    check()


@pytest.mark.parametrize("reader", [read_manifest, read_checkpoint, read_object])
def test_any_bytes_are_a_record_or_one_line(reader, tmp_path):
    file = tmp_path / "manifest.json"

    @QUICK
    @given(st.binary(max_size=40) | anything.map(lambda value: json.dumps(value).encode()))
    def check(content):
        file.write_bytes(content)
        try:
            reader(file)
        except ArtifactError as error:
            one_line(error, f"{file}: ")

    check()


def plan_or_line(config: Any) -> None:
    """A configuration gives a plan that can be used, or one line."""
    try:
        plan = make_plan(config, RECIPES)
    except ConfigError as error:
        one_line(error)
        return
    for name in plan.experiments:
        contents = plan.contents(name)
        assert parse_contents(contents.to_json()) == contents
    assert all(point.model in plan.models for point in plan.evaluated)


def recipe_or_line(sections: Any) -> None:
    """Sections give a recipe that comes back from its JSON, or one line."""
    try:
        recipe = resolve("mine", sections)
    except ConfigError as error:
        one_line(error)
        return
    stored = json.loads(json.dumps(recipe.to_json()))
    assert resolve(stored.pop("name"), stored) == recipe


SECTIONS = {
    "importance": {"metric": "macro_influence", "protect_first": 1, "protect_last": 0},
    "selection": "iterative",
    "rerank": {"candidates": 2, "sequences": 4, "judged": 4, "epochs": 1},
    "granularity": "block",
    "recovery": {"method": "fusion", "rank": 8, "epochs": 2, "batch_size": 4},
    "calibration": {"corpus": "wikitext2", "sequences": 4, "length": 64},
    "finetune": {"corpus": "wikitext2", "sequences": 16, "length": 64},
    "dtype": "float32",
    "seed": 0,
}


def full_configuration() -> dict[str, Any]:
    config = configuration()
    config["corpora"] = {"mine": {"splits": {"train": "a.txt", "test": "b.txt"}, "join": " "}}
    config["recipes"] = {
        "own": {"importance": {"metric": "random"}, "recovery": {"method": "none"}}
    }
    config["evaluations"]["asked"] = {"eval": "classification", "tasks": ["sst2"], "shots": 4}
    study = config["experiments"]["study"]
    study["recipes"] = ["dense", "fusegpt", "own", "slicegpt"]
    study |= {"seeds": [0, 1], "recipe_settings": {"fusegpt": {"recovery": {"rank": 4}}}}
    return config


@pytest.mark.parametrize(
    "how", [QUICK, pytest.param(OFTEN, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_any_configuration_is_a_plan_or_one_line(how):
    how(given(spoilt(full_configuration()))(plan_or_line))()


@pytest.mark.parametrize(
    "how", [QUICK, pytest.param(OFTEN, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_any_sections_are_a_recipe_or_one_line(how):
    how(given(spoilt(SECTIONS))(recipe_or_line))()


@pytest.mark.parametrize(
    "how", [QUICK, pytest.param(OFTEN, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_any_text_is_yaml_or_one_line(how, tmp_path):
    file = tmp_path / "mine.yaml"
    written = spoilt(full_configuration()).map(lambda value: yaml.safe_dump(value).encode())

    @how
    @given(
        st.binary(max_size=60)
        | st.text("{}[]:,-?&*!|>'\"#%@ab1\n\t ", max_size=40).map(str.encode)
        | written
    )
    def check(content):
        file.write_bytes(content)
        try:
            value = read_yaml(file)
        except ConfigError as error:
            one_line(error, f"{file}: ")
            return
        if isinstance(value, dict):
            plan_or_line(value)

    check()
