"""The folder of the configuration, and that no table's settings need torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated

from fusegpt.config import Fraction, Strict, added_later, builtin_config_dir


def test_the_configuration_folder_has_recipes():
    assert (builtin_config_dir() / "recipes" / "fusegpt.yaml").is_file()


def test_every_method_in_the_tables_has_settings_and_needs_no_torch_for_them():
    code = (
        "import sys\n"
        "from fusegpt.evaluation import EVALS\n"
        "from fusegpt.importance import METRICS\n"
        "from fusegpt.methods import defaults\n"
        "from fusegpt.recovery import RECOVERIES\n"
        "from fusegpt.slicegpt import WIDTHS\n"
        "for table in (METRICS, RECOVERIES, WIDTHS, EVALS):\n"
        "    for method in table.values(): defaults(method), method.summary\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


def test_a_setting_that_was_added_later_is_written_only_where_it_is_not_at_its_default():
    class Oven(Strict):
        heat: Fraction = 0.5
        steam: Annotated[Fraction, added_later(0.0, "How much.")] = 0.0

    assert Oven().model_dump() == {"heat": 0.5}
    assert Oven(steam=0.1).model_dump() == {"heat": 0.5, "steam": 0.1}
    assert Oven.model_validate({"heat": 0.5}).steam == 0.0
    assert Oven.model_fields["steam"].description == "How much."
