"""What every method's settings must hold to; new lines of the tables join by themselves."""

import inspect

import pytest

from fusegpt.evaluation import EVALS
from fusegpt.importance import METRICS
from fusegpt.recovery import RECOVERIES
from fusegpt.slicegpt import WIDTHS

TABLES = {
    "importance": METRICS,
    "recovery": RECOVERIES,
    "width": WIDTHS,
    "evaluation": EVALS,
}
METHODS = [
    pytest.param(method, id=f"{table}-{name}")
    for table, methods in TABLES.items()
    for name, method in methods.items()
]


@pytest.mark.parametrize("method", METHODS)
def test_every_setting_says_what_it_means(method):
    unexplained = [
        name for name, field in method.schema.model_fields.items() if not field.description
    ]
    assert unexplained == []
    assert "__doc__" in vars(method.schema) and method.summary.endswith(".")


@pytest.mark.parametrize("method", METHODS)
def test_the_function_takes_the_settings_that_its_line_names(method):
    function = method.load()
    settings = inspect.signature(function).parameters["settings"]
    assert settings.default in (settings.empty, method.schema())
    assert method.schema.__name__ in str(settings.annotation)


@pytest.mark.parametrize("method", METHODS)
def test_settings_do_not_change_afterwards(method):
    assert method.schema.model_config["frozen"]
    assert method.schema.model_config["extra"] == "forbid"
