"""Settings read from signatures, and the words for wrong ones."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fusegpt.config import bind, builtin_config_dir, defaults, settings_schema
from fusegpt.errors import ConfigError
from fusegpt.registry import Entry

SOURCE = '''
import no_such_module_on_this_machine

def tune(model, batches, *, seed: int, rank: PositiveInt = 128, learning_rate: LearningRate = 1e-3,
         loss: Literal["kl", "mse"] = "kl", limit: PositiveInt | None = None,
         progress: bool = False):
    """Never imported."""
'''


@pytest.fixture
def entry(tmp_path, monkeypatch):
    (tmp_path / "made_up_method.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    settings_schema.cache_clear()
    return Entry("made_up_method:tune")


def test_settings_are_the_keyword_only_parameters_with_defaults(entry):
    assert defaults(entry) == {
        **{"rank": 128, "learning_rate": 1e-3, "loss": "kl", "limit": None},
    }


def test_reading_settings_does_not_import_the_module(entry):
    defaults(entry)

    assert "made_up_method" not in sys.modules


def test_bind_fills_in_defaults_and_reads_yamls_exponents(entry):
    bound = bind(entry, {"learning_rate": "1e-2", "limit": 3}, "recipes.x.recovery")

    assert bound == {"rank": 128, "learning_rate": 0.01, "loss": "kl", "limit": 3}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": -1}, "x.rank: must be greater than 0, got -1"),
        ({"rank": 1.5}, "x.rank: must be a whole number, got 1.5"),
        ({"rank": True}, "x.rank: must be a whole number, got True"),
        ({"rank": "8"}, "x.rank: must be a whole number, got '8'"),
        ({"loss": "kll"}, "x.loss: must be 'kl' or 'mse', got 'kll'"),
        ({"learning_rate": "fast"}, "x.learning_rate: must be a number, got 'fast'"),
        ({"learning_rate": float("nan")}, "x.learning_rate: must be a finite number, got nan"),
        ({"rnk": 8}, "x: unknown setting 'rnk'; did you mean 'rank'? known: learning_rate, limit,"),
        ({"seed": 8}, "x: unknown setting 'seed'"),
        ({"progress": True}, "x: unknown setting 'progress'"),
        ({"rank": 0, "loss": 1}, "got 0; x.loss: must be"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(entry, settings, message):
    with pytest.raises(ConfigError) as caught:
        bind(entry, settings, "x")

    assert message in str(caught.value)


def test_the_configuration_folder_has_recipes():
    assert (builtin_config_dir() / "recipes" / "fusegpt.yaml").is_file()


def test_every_method_in_the_tables_has_readable_settings_and_needs_no_torch_for_it():
    code = (
        "import sys\n"
        "from fusegpt.config import defaults\n"
        "from fusegpt.importance import METRICS\n"
        "from fusegpt.recovery import RECOVERIES\n"
        "from fusegpt.evaluation import EVALS\n"
        "from fusegpt import methods\n"
        "for table in (METRICS, RECOVERIES):\n"
        "    for entry in table.values(): defaults(entry)\n"
        "for method in EVALS.values(): methods.defaults(method)\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
