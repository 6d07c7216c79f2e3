"""The merged configuration: what is refused, in which words, and what is planned."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fusegpt.errors import ConfigError
from fusegpt.results.contents import parse_contents
from fusegpt.results.point import Point
from fusegpt.workflow.experiment import make_plan
from fusegpt.workflow.files import plan_of
from tests.workflow.conftest import EVALUATION, configuration

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "config" / "recipes"


def plan(config):
    return make_plan(config, RECIPES)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("experiments.study.model", ["tiny"], "experiments.study: unknown setting 'model'; did"),
        ("experiments.study.models", [], "experiments.study.models: must have at least 1 entry"),
        ("experiments.study.models", ["tini"], "unknown model 'tini'; did you mean 'tiny'?"),
        ("experiments.study.models", ["tiny", "tiny"], "must list each entry once, got 'tiny'"),
        ("experiments.study.recipes", ["fusgpt"], "unknown recipe 'fusgpt'; did you mean"),
        ("experiments.study.evaluations", ["dosc"], "unknown evaluation 'dosc'; did you mean"),
        (
            "recipes.other",
            {"importance": {"metric": "macro_influence"}},
            "experiments.study.recipes: macro_influence and other are the same with these settings",
        ),
        (
            "experiments.study.recipe_settings",
            {"fusegtp": {}},
            "experiments.study.recipe_settings: unknown recipe of this experiment 'fusegtp'",
        ),
        ("experiments.study.sparsities", [25], "[0, 1), got 25.0; 25% is 0.25"),
        ("experiments.study.sparsities", [-0.1], "in [0, 1), got -0.1"),
        ("experiments.study.sparsities", [1.0], "in [0, 1), got 1.0"),
        ("experiments.study.sparsities", [0.9], "0.9 of 4 units removes all of them"),
        (
            "experiments.study.settings.importance",
            {"protect_first": 2, "protect_last": 2},
            "sparsities: 1 of 4 blocks are to go, but recipe 'macro_influence' protects",
        ),
        ("experiments.study.sparsities", ["a lot"], "parameters: 100M}, got 'a lot'; 25% is 0.25"),
        ("experiments.study.sparsities", 0.25, "sparsities: must be a list, got 0.25"),
        ("experiments.study.seeds", [-1], "seeds.0: must be at least 0, got -1"),
        ("experiments.study.seeds", [True], "seeds.0: must be a whole number, got True"),
        (
            "experiments.study.settings.recovery",
            {"epoch": 3},
            "experiments.study: recipes.macro_influence.recovery: unk",
        ),
        ("experiments.study.settings.recovery", {"rank": -1}, "recovery.rank: must be greater"),
        ("experiments.study.settings.recovery", {"batch_size": 1}, "must be at least 2, got 1"),
        ("experiments.study.settings.dtype", "float31", "dtype: must be 'float32', 'bfloat16' or"),
        ("experiments.study.settings.calibration", {"corpus": "wiki"}, "unknown corpus 'wiki'"),
        ("experiments.study.settings.calibration", {"corpus": "mine"}, "unknown split 'train'"),
        ("recipes.other", {"importance": {"metric": "macro_influnce"}}, "did you mean 'macro_in"),
        ("recipes.other", {"recovery": {"method": "fusionn"}}, "did you mean 'fusion'?"),
        ("recipes.fusegpt", {}, "recipes.fusegpt: this name is taken"),
        ("evaluations.docs.eval", "perplexty", "docs.eval: unknown evaluation 'perplexty'; did"),
        ("evaluations.docs.lenght", 3, "unknown setting 'lenght'; did you mean 'length'?"),
        ("evaluations.docs.corpus", "wikitext", "did you mean 'wikitext2'?"),
        (
            "evaluations.docs",
            {"eval": "classification", "dtype": "float16"},
            "evaluations.docs.dtype: must be 'bfloat16' or 'float32' with classification, which",
        ),
        ("models.tiny.num_blocks", 0, "models.tiny.num_blocks: must be greater than 0, got 0"),
        ("models.tiny.source", "dir:a\nb", "must be a path without control characters"),
        ("models.tiny.source", "torrent:x", "models.tiny.source"),
        (
            "models.tiny.source",
            "made:tini",
            "tiny.source: unknown model 'tini'; did you mean 'tiny'",
        ),
        ("models.tiny.source", "hub:../..", "models.tiny.source: must look like hub:org/name@rev"),
        ("models.tiny.source", "hub:a/b@../../c", "models.tiny.source: must look like hub:"),
        ("models.tiny.source", "hub:a/b;touch x", "models.tiny.source: must look like hub:"),
        ("models.tiny.source", "hub:модель/b", "models.tiny.source: must look like hub:"),
        ("models.tiny.source", "pypi:a==1/../b.gguf", "models.tiny.source: must look like pypi:"),
        ("models.tiny.trust_remote_code", "yes", "must be true or false, got 'yes'"),
        ("corpora.mine", {"splits": {"train": "a\nb"}}, "without control characters"),
        ("corpora.mine", {"splits": {"../a": "b"}}, "a name must be lower-case"),
        ("experiments.study.recipes", ["fusegpt;reboot"], "a name must be lower-case"),
        ("experiments.study.recipes", ["../fusegpt"], "a name must be lower-case"),
        ("experiments.study.models", ["tiny\n"], "a name must be lower-case"),
        ("experiments.study.keep_checkpoints", "no", "must be true or false, got 'no'"),
        ("corpora.mine", {"splits": {"train": "{model}"}}, "without control characters and brace"),
        ("corpora.wikitext3", {}, "unknown built-in corpus 'wikitext3'; did you mean 'wikitext2'"),
        (
            "corpora.mine",
            {},
            "corpora.mine: unknown built-in corpus 'mine'; known: c4, c4_old, python",
        ),
        (
            "corpora.mine",
            {"splits": {"test": "mine.csv"}},
            "corpora.mine: splits.test must be a file that ends in .parquet, .jsonl, .gz, .txt",
        ),
        ("experiment", {}, "unknown setting 'experiment'; did you mean 'experiments'?"),
        ("experiments.study.sparsities", [10**400], "sparsities.0: must be a fraction of units in"),
        ("models.tiny.num_blocks", 10**30, "models.tiny.num_blocks: must be at most 10000, got"),
        ("models.tiny.source", "dir:", "models.tiny.source: 'dir:' is no directory and no known"),
        (
            "recipes.other",
            {"importance": {"metric": "slebb"}},
            "recipes.other.importance.metric: unknown importance metric 'slebb'; did you mean",
        ),
        ("recipes.other", {"chain": "nope"}, "recipes.other.chain: unknown recipe 'nope'"),
        ("recipes.other", {"calibration": []}, "recipes.other.calibration: must be a table of"),
    ],
)
def test_a_fault_is_named_in_one_line(change, path, value, message):
    config = configuration()
    config["corpora"] = {"mine": {"splits": {"test": "mine.txt"}}}
    config["recipes"] = {"other": {"importance": {"metric": "random"}}}
    config["recipes"]["other"]["recovery"] = {"method": "none"}
    config["experiments"]["study"]["recipes"].append("other")
    if path == "recipes.other":
        value = {**config["recipes"]["other"], **value}
    change(config, path, value)

    with pytest.raises(ConfigError) as caught:
        plan(config)

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_without_a_value_takes_back_what_was_merged_in():
    config = configuration()
    study = config["experiments"]["study"]
    until = {"evaluation": "docs", "at_most": 12}
    config["experiments"]["other"] = {**study, "sparsities": None, "until": until, "seeds": None}
    other = plan(config).experiments["other"]
    assert (other.sparsities, other.seeds) == ([], [0])
    study["models"] = None
    with pytest.raises(ConfigError, match=r"experiments\.study\.models: is required"):
        plan(config)


def test_a_sparsity_that_groups_have_no_room_for_is_named_before_anything_runs():
    config = configuration()
    study = config["experiments"]["study"]
    config["recipes"] = {"other": {"width": {"method": "foldgpt", "removed": 0}}}
    study["recipes"], study["sparsities"] = ["other"], [0.5, 0.75]

    with pytest.raises(ConfigError) as caught:
        plan(config)

    assert str(caught.value) == (
        "experiments.study.sparsities: recipe 'other': 3 of 4 blocks would share weights, and"
        " groups of 2 have room for 2; lower it, or raise width.group_size or width.removed"
    )


@pytest.mark.parametrize(
    "name", ["../up", "a;b", "a b", "a\nb", "modèle", "$(id)", "-rf", "", "a" * 65, "a..b", "A"]
)
@pytest.mark.parametrize("table", ["models", "corpora", "evaluations", "recipes", "experiments"])
def test_a_hostile_name_is_refused(table, name):
    config = configuration()
    entry = {"models": "tiny", "evaluations": "docs", "experiments": "study"}.get(table)
    config.setdefault(table, {})[name] = config[table][entry] if entry else {}

    with pytest.raises(ConfigError, match="a name must be lower-case"):
        plan(config)


def test_the_demo_asks_for_each_point_once():
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    demo = yaml.safe_load((ROOT / "config/demo.yaml").read_text())
    config["experiments"] = demo["experiments"]
    config["evaluations"] |= demo["evaluations"]

    made = plan(config)

    points = made.points["demo"]
    assert points[0] == Point.dense("smollm2-135m")
    assert len(points) == len(set(points)) == 10
    assert made.steps("demo", "smollm2-135m") == {"0.05": 2, "0.1": 3, "0.2": 6}


def test_a_mixed_recipe_removes_twice_as_many_units_at_a_sparsity():
    config = configuration()
    recipes = ["fusegpt", "blockpruner", "fusegpt_attention"]
    config["experiments"]["study"] |= {"sparsities": [0.5], "recipes": recipes}

    made = plan(config)

    steps = {x.recipe.split("-")[0]: x.place.number for x in made.points["study"]}
    assert steps == {"fusegpt": 2, "blockpruner": 4, "fusegpt_attention": 2}
    described = made.contents("study")
    assert described.models["tiny"].mixed_steps == {"0.5": 4}
    assert [run.granularity for run in described.recipes] == ["block", "mixed", "attention"]
    assert parse_contents(described.to_json()) == described


def test_a_mixed_recipe_must_reach_its_own_last_step():
    config = configuration()
    config["recipes"] = {
        "guarded": {
            "importance": {"metric": "sleb", "protect_first": 1, "protect_last": 1},
            "granularity": "mixed",
            "recovery": {"method": "none"},
        }
    }
    config["experiments"]["study"] |= {"recipes": ["guarded"], "sparsities": [0.75]}
    with pytest.raises(ConfigError, match=r"6 of 8 units are to go, .* which leaves 4"):
        plan(config)


def test_what_cannot_remove_sublayers_is_refused_while_the_graph_is_built():
    config = configuration()
    config["recipes"] = {
        "wrong": {
            "importance": {"metric": "sleb"},
            "granularity": "attention",
            "recovery": {"method": "magnitude"},
        }
    }
    config["experiments"]["study"] |= {"recipes": ["wrong"]}
    with pytest.raises(ConfigError, match="magnitude replaces whole blocks; with granularity"):
        plan(config)


def test_sparsity_zero_is_the_dense_model():
    config = configuration()
    config["experiments"]["study"] |= {"sparsities": [0.0], "recipes": ["fusegpt"]}

    assert plan(config).points["study"] == [Point.dense("tiny")]


def test_equal_windows_are_sampled_once_and_batch_size_does_not_change_them():
    config = configuration()
    made = plan(config)
    config["experiments"]["study"]["settings"]["calibration"]["batch_size"] = 1

    assert len(made.windows) == 2
    assert set(plan(config).windows) == set(made.windows)


def test_another_file_behind_a_corpus_is_another_file_of_windows():
    config = configuration()
    config["corpora"] = {"python_docs": {"splits": {"train": "a.txt", "test": "b.txt"}}}
    first = plan(config)
    config["corpora"]["python_docs"]["splits"]["train"] = "c.txt"
    second = plan(config)

    assert not set(first.windows) & set(second.windows)
    entry = next(iter(second.windows.values())).corpora
    assert entry == {"python_docs": {"splits": {"train": "c.txt"}}}


def test_an_evaluation_is_completed_with_defaults():
    made = plan(configuration())

    assert made.evaluations["docs"].settings["bos"] == "stream"
    assert made.evaluations["docs"].settings["length"] == EVALUATION["length"]


def test_the_tables_verb_understands_the_description():
    contents = plan(configuration()).contents("study")
    assert parse_contents(contents.to_json()) == contents


@pytest.mark.parametrize(
    "file", sorted(ROOT.glob("config/experiments/*.yaml")), ids=lambda x: x.stem
)
def test_every_experiment_of_the_project_is_valid(file):
    assert plan_of([file.stem]).experiments


def test_planning_imports_no_torch_and_takes_under_three_seconds():
    """Every experiment at once, and no more than pydantic, yaml and what they bring."""
    code = (
        "import sys, time; start = time.process_time()\n"
        "from fusegpt.workflow.files import plan_of\n"
        "plan_of(sys.argv[1:])\n"
        "seconds = time.process_time() - start\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pandas', 'numpy', 'snakemake'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "print(seconds)"
    )
    names = ["demo", *(file.stem for file in ROOT.glob("config/experiments/*.yaml"))]
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 3
