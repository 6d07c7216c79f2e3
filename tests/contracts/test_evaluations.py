"""Every evaluation says what it needs; one with settings of unheard-of names works like others."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fusegpt.cli import fusegpt_command, run
from fusegpt.evaluation import EVALS, Evaluation
from fusegpt.evaluation.settings import EvaluationSettings
from fusegpt.methods import bind
from fusegpt.workflow.experiment import make_plan
from fusegpt.workflow.together import settings_of
from tests.workflow.conftest import configuration

RECIPES = Path(__file__).resolve().parents[2] / "config" / "recipes"
SETTINGS = '''
from fusegpt.evaluation.settings import EvaluationSettings

class Echo(EvaluationSettings):
    """How often a word of a text returns."""

    prose: str = "python_docs"
    chapter: str = "test"
    louder: int = 1

    def corpus_read(self):
        return self.prose, self.chapter
'''
CODE = """
from fusegpt.data.corpora import load_text

def plan(directory, corpora, settings):
    return load_text(settings.prose, settings.chapter, corpora), settings.louder

def echo(model, plan):
    text, louder = plan
    row = {"task": text.name, "metric": "echo", "value": 1.0 * louder, "unit": "times"}
    return [row | {"higher_is_better": True, "num_samples": 1, "protocol": {"split": text.split}}]
"""


@pytest.mark.parametrize("name", EVALS)
def test_every_evaluation_explains_itself_and_its_settings(name):
    line = EVALS[name]
    assert issubclass(line.schema, EvaluationSettings)
    assert line.summary.endswith(".")
    for field, about in line.schema.model_fields.items():
        assert about.description and about.description.endswith("."), f"{name}.{field}"
    settings = bind(line, {}, f"evaluations.{name}")
    assert bool(settings.tasks_read()) == (settings.reads == "tasks")
    assert (settings.corpus_read() is not None) == (settings.reads == "corpora")


def test_settings_are_read_without_torch():
    code = "import sys; from fusegpt.evaluation import EVALS; [x.schema() for x in EVALS.values()]"
    code += "; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def echo(tmp_path, monkeypatch):
    """A package of somebody's own, and one line in the table."""
    (tmp_path / "echo_settings.py").write_text(SETTINGS)
    (tmp_path / "echo_code.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    line = Evaluation("echo_code:plan", "echo_settings:Echo", measure="echo_code:echo")
    monkeypatch.setitem(EVALS, "echo", line)
    yield
    for name in ("echo_settings", "echo_code"):
        sys.modules.pop(name, None)


def test_an_evaluation_with_settings_of_its_own_is_planned_and_measured(
    echo, tiny_llama_dir, tmp_path
):
    (tmp_path / "mine.txt").write_text("now and again\n")
    config = configuration()
    config["corpora"] = {"mine": {"splits": {"verse": str(tmp_path / "mine.txt")}}}
    config["evaluations"]["rings"] = {"eval": "echo", "prose": "mine", "chapter": "verse"}
    config["experiments"]["study"]["evaluations"].append("rings")
    plan = make_plan(config, RECIPES)
    assert plan.corpora_of("rings") == config["corpora"] and plan.tasks_of("rings") == {}
    asked = f"rings={json.dumps(settings_of(plan, 'rings'))}"
    output = tmp_path / "rings.json"
    verb = ["evaluate", "--model", str(tiny_llama_dir), "--evaluation", asked]
    assert run(fusegpt_command, [*verb, "--output", str(output)]) == 0
    found = json.loads(output.read_text())
    assert found["settings"] == {"prose": "mine", "chapter": "verse", "louder": 1}
    assert found["rows"][0]["task"] == "mine"


def test_its_settings_are_checked_like_all_others(echo, capsys, tiny_llama_dir, tmp_path):
    verb = ["evaluate", "--model", str(tiny_llama_dir), "--eval", "echo", "--settings"]
    assert (
        run(fusegpt_command, [*verb, '{"prise": "x"}', "--output", str(tmp_path / "e.json")]) == 2
    )
    assert "unknown setting 'prise'; did you mean 'prose'?" in capsys.readouterr().err
