"""What settings there are: explained, as schemas for editors, as tables; from one source."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from fusegpt.cli import fusegpt_command
from fusegpt.errors import ConfigError
from fusegpt.evaluation import EVALS
from fusegpt.importance import METRICS
from fusegpt.pruning.recipe import load_recipe, recipe_names, resolve
from fusegpt.recovery import RECOVERIES
from fusegpt.slicegpt import WIDTHS
from fusegpt.workflow.json_schema import experiment_schema, recipe_schema
from fusegpt.workflow.manual import explained, settings_document, settings_of
from tests.quick import each

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(ROOT.glob("config/recipes/*.yaml"))
CONFIGURATIONS = [
    *sorted(ROOT.glob("config/*.yaml")),
    *sorted(ROOT.glob("config/experiments/*.yaml")),
    *sorted(ROOT.glob("config/tasks/*.yaml")),
    *sorted(ROOT.glob("examples/*/*.yaml")),
]
METHODS = [
    pytest.param(method, id=f"{kind}-{name}")
    for kind, table in {
        "metric": METRICS,
        "recovery": RECOVERIES,
        "width": WIDTHS,
        "eval": EVALS,
    }.items()
    for name, method in table.items()
]
BY_LOSS = {"importance": {"metric": "sleb"}, "recovery": {"method": "fusion"}}


class AsEditors(yaml.SafeLoader):
    """YAML 1.2, where 3e-3 is a number; PyYAML reads it as text, which our types then convert."""


AsEditors.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def said(*arguments: str) -> str:
    done = CliRunner().invoke(fusegpt_command, ["recipes", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("kind", ["recipe", "experiment"])
def test_the_schema_that_lies_in_the_configuration_is_the_one_made_now(kind):
    file = ROOT / f"config/schema/{kind}.json"
    assert file.read_text() == said("--schema", kind), "make settings writes it anew"
    jsonschema.Draft7Validator.check_schema(json.loads(file.read_text()))


def test_the_tables_in_the_documents_are_those_made_now():
    text = (ROOT / "docs/settings.md").read_text()
    assert text == settings_document() == said("--tables"), "make settings writes them anew"


@functools.cache
def validator(file: Path) -> jsonschema.Validator:
    """What checks against the schema in a file, which is checked itself."""
    schema = json.loads(file.read_text())
    kind = jsonschema.validators.validator_for(schema)
    kind.check_schema(schema)
    return kind(schema)


@pytest.mark.parametrize("file", [*RECIPES, *CONFIGURATIONS], ids=lambda file: file.stem)
def test_every_file_of_the_project_names_its_schema_and_follows_it(file):
    text = file.read_text()
    place = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)[1]

    validator(file.parent / place).validate(yaml.load(text, AsEditors))


@pytest.mark.parametrize(
    ("recipe", "path"),
    [
        ({**BY_LOSS, "importance": {"metric": "sleb", "taget": "x"}}, ["importance"]),
        ({**BY_LOSS, "importance": {"metric": "slb"}}, ["importance", "metric"]),
        ({**BY_LOSS, "recovery": {"method": "fusion", "rank": 0}}, ["recovery", "rank"]),
        ({**BY_LOSS, "recovery": {"method": "lora", "learning_rate": 0}}, None),
        ({**BY_LOSS, "recovery": {"method": "low_rank", "group_size": 7}}, ["recovery"]),
        ({**BY_LOSS, "calibration": {"lenght": 4}}, ["calibration"]),
        ({**BY_LOSS, "dtype": "float33"}, ["dtype"]),
        ({**BY_LOSS, "selection": None}, ["selection"]),
        ({"width": {"method": "slicegpt", "signal": "x"}}, ["width", "signal"]),
        ({"width": {"method": "slicegpt"}, "finetune": {}}, []),
        ({"recovery": {"method": "none"}}, []),
    ],
)
def test_what_the_schema_refuses_we_refuse(recipe, path):
    (error, *_) = jsonschema.Draft7Validator(recipe_schema()).iter_errors(recipe)
    assert path is None or list(error.absolute_path) == path
    with pytest.raises(ConfigError):
        resolve("mine", recipe)


@pytest.mark.parametrize(
    ("section", "entry"),
    [
        ("evaluations", {"eval": "perplexity", "corups": "c4"}),
        ("evaluations", {"eval": "perplexty"}),
        ("recipes", {**BY_LOSS, "sed": 1}),
        ("models", {"source": "dir:x"}),
        ("corpora", {"split": {}}),
        ("experiments", {"models": ["x"], "recipes": ["y"], "sparsities": [0.1]}),
    ],
)
def test_a_wrong_entry_of_a_configuration_is_refused(section, entry):
    found = list(
        jsonschema.Draft7Validator(experiment_schema()).iter_errors({section: {"x": entry}})
    )
    assert found and list(found[0].absolute_path)[:2] == [section, "x"]


def test_settings_of_an_experiment_may_be_those_of_any_method_but_no_others():
    experiment = {
        "models": ["m"],
        "recipes": ["r"],
        "sparsities": [0.1],
        "evaluations": ["e"],
        "settings": {"recovery": {"rank": 8, "holdout": 0.5}, "importance": {"samples": 2}},
        "recipe_settings": {"r": {"finetune": {"length": 16}, "width": {"signal": "normed"}}},
    }
    checker = jsonschema.Draft7Validator(experiment_schema())
    assert list(checker.iter_errors({"experiments": {"x": experiment}})) == []
    experiment["sparsities"] = [0.1, {"parameters": "100M"}, {"memory": "6GB", "context": 8192}]
    assert list(checker.iter_errors({"experiments": {"x": experiment}})) == []
    experiment["sparsities"].append({"paramters": "1M"})
    assert len(list(checker.iter_errors({"experiments": {"x": experiment}}))) == 1
    experiment["sparsities"].pop()
    experiment["settings"]["recovery"]["rnak"] = 8
    assert len(list(checker.iter_errors({"experiments": {"x": experiment}}))) == 1


@pytest.mark.parametrize("method", METHODS)
def test_every_setting_has_a_meaning_and_what_it_may_be(method):
    assert method.summary.endswith(".")
    for setting in settings_of(method.schema):
        assert setting.meaning.endswith("."), setting
        assert setting.allowed and setting.default, setting


@pytest.mark.parametrize("name", each(recipe_names(), quick=recipe_names()[::8]))
def test_a_recipe_is_explained_whole(name):
    recipe = load_recipe(name)
    text = explained(recipe)
    values = recipe.to_json()
    needed = ["importance", "recovery", "width", "calibration"]
    needed += ["finetune"] if recipe.needs_windows else []
    for section in (values[name] for name in needed if name in values):
        for setting in section.keys() - {"metric", "method"}:
            assert re.search(rf"^{setting} ", text, re.MULTILINE), setting
    assert recipe.id in text


def test_a_changed_setting_is_shown_beside_its_default():
    assert re.search(r"^loss +mse +kl_batch +Loss between", said("fusegpt_mse"), re.MULTILINE)
    assert "arXiv 2411.14507" in said("fusegpt_mse")


def test_a_file_is_explained_like_a_recipe_of_the_project(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("importance: {metric: sleb}\nrecovery: {method: none}\nseed: 7\n")
    assert re.search(r"^seed +7 +0 ", said(str(file)), re.MULTILINE)


def test_the_list_has_a_line_of_words_for_each_recipe():
    text = said()
    for name in recipe_names():
        assert re.search(rf"^{name} +\w+", text, re.MULTILINE), name
    assert "$schema" not in text


def test_nothing_of_it_needs_torch():
    code = (
        "import sys\n"
        "from fusegpt.cli import run, fusegpt_command\n"
        "for arguments in ([], ['fusegpt'], ['--tables'], ['--schema', 'experiment']):\n"
        "    assert run(fusegpt_command, ['recipes', *arguments]) == 0\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
