"""``import fusegpt``: the verbs as functions, and nothing heavy before they are used."""

import subprocess
import sys

import pytest

import fusegpt


@pytest.mark.parametrize("name", fusegpt.__all__)
def test_everything_promised_is_there(name):
    assert getattr(fusegpt, name)


def test_the_import_brings_no_torch_and_an_unknown_name_is_an_attribute_error():
    code = "import sys, fusegpt; assert 'torch' not in sys.modules; print(dir(fusegpt))"
    assert "prune" in subprocess.check_output([sys.executable, "-c", code], text=True)
    with pytest.raises(AttributeError, match="no attribute 'prnue'"):
        fusegpt.prnue  # noqa: B018
