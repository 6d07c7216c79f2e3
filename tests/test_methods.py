"""Methods in a table: settings that are checked without importing what they are for."""

import sys

import pytest

from fusegpt.errors import ConfigError
from fusegpt.methods import Method, bind, defaults

SETTINGS = '''
from typing import Literal
from fusegpt.config import LearningRate, PositiveInt
from fusegpt.methods import Settings

class Tune(Settings):
    """Tune something.

    And say more about it.
    """

    rank: PositiveInt = 128
    learning_rate: LearningRate = 1e-3
    loss: Literal["kl", "mse"] = "kl"
    limit: int | None = None
'''


@pytest.fixture
def method(tmp_path, monkeypatch):
    (tmp_path / "made_up_method.py").write_text("import torch\n")
    (tmp_path / "made_up_settings.py").write_text(SETTINGS)
    monkeypatch.syspath_prepend(tmp_path)
    yield Method("made_up_method:tune", "made_up_settings:Tune")
    sys.modules.pop("made_up_settings", None)


def test_a_methods_settings_are_the_fields_of_its_class(method):
    assert defaults(method) == {"rank": 128, "learning_rate": 1e-3, "loss": "kl", "limit": None}


def test_reading_settings_does_not_import_the_methods_module(method):
    defaults(method)

    assert "made_up_method" not in sys.modules


def test_a_method_is_described_by_the_first_line_of_its_settings(method):
    assert method.summary == "Tune something."


def test_bind_fills_in_defaults_and_reads_yamls_exponents(method):
    bound = bind(method, {"learning_rate": "1e-2", "limit": 3}, "recipes.x.recovery")

    assert bound.model_dump() == {"rank": 128, "learning_rate": 0.01, "loss": "kl", "limit": 3}


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
        ({"rank": 0, "loss": 1}, "got 0; x.loss: must be"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(method, settings, message):
    with pytest.raises(ConfigError) as caught:
        bind(method, settings, "x")

    assert message in str(caught.value)


def test_settings_do_not_change_afterwards(method):
    with pytest.raises(ValueError, match="frozen"):
        bind(method, {}, "x").rank = 3
