"""Tuned blocks that are compiled: the same losses but for rounding, or one line that says no."""

import functools

import pytest
import torch

from fusegpt.errors import ConfigError
from fusegpt.recovery.fusion import fusion
from fusegpt.recovery.room import using
from fusegpt.recovery.settings.group import Fusion
from fusegpt.units import Unit
from tests import tiny
from tests.quick import slow

SETTINGS = Fusion(rank=3, lora_rank=3, group_size=2, epochs=1, batch_size=4)
COMPILE = torch.compile


def tuned(compiled, memory="keep"):
    model = tiny.model("llama")
    with using(memory, compiling=compiled):
        report = fusion(model, Unit("block", 2), tiny.ids(8, 10), SETTINGS, seed=0)
    return report, model.module.state_dict()


@pytest.mark.parametrize("backend, memory", [(None, "keep"), slow("inductor", "spare")])
def test_compiled_blocks_are_tuned_as_plain_ones_but_for_rounding(backend, memory, monkeypatch):
    if backend == "inductor" and " " in torch.__file__:
        pytest.skip("its C++ compiler is called with unquoted paths, and torch's has a space")
    graphs = []

    def compiling(way, **more):
        graphs.append(way)
        return way if backend is None else COMPILE(way, backend=backend, **more)

    monkeypatch.setattr(torch, "compile", compiling)
    plain, compiled = tuned(False, memory), tuned(True, memory)
    assert len(graphs) == 3  # two blocks, and the forming of weights
    assert compiled[0].mishaps == {"compiled": True} and plain[0].mishaps == {}
    for one, other in zip(plain[0].rows, compiled[0].rows, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
    for name, value in plain[1].items():
        torch.testing.assert_close(compiled[1][name], value, rtol=1e-4, atol=1e-6)


def test_what_cannot_be_compiled_is_refused_in_one_line(monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setattr(torch, "compile", functools.partial(COMPILE, backend=broken))
    with pytest.raises(ConfigError, match=r"^--compile: must be left out here.*$") as refused:
        tuned(True)
    assert "\n" not in str(refused.value) and "no compiler" in str(refused.value)
