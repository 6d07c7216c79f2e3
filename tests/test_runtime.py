"""Seeds, devices, dtypes, time."""

from __future__ import annotations

import sys

import pytest
import torch

from fusegpt.errors import ConfigError
from fusegpt.runtime import (
    Timer,
    device,
    generator,
    peak_memory_gib,
    reset_peak_memory,
    torch_dtype,
)


def test_a_generator_depends_on_its_parts_alone():
    torch.manual_seed(1)
    first = torch.rand(4, generator=generator(0, "lora", 3))
    torch.rand(7)

    assert torch.equal(torch.rand(4, generator=generator(0, "lora", 3)), first)
    assert not torch.equal(torch.rand(4, generator=generator(0, "lora", 4)), first)


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cudax", ""])
def test_an_unknown_device_is_refused(name):
    with pytest.raises(ConfigError, match=r"device: must be cpu, cuda or cuda:N"):
        device(name)


def test_a_device_that_is_absent_is_refused():
    with pytest.raises(ConfigError, match=r"'cuda:99' is not there; \d+ CUDA devices are visible"):
        device("cuda:99")


def test_dtypes_have_names():
    assert torch_dtype("bfloat16") is torch.bfloat16
    with pytest.raises(ConfigError, match="unknown dtype 'bfloat'; did you mean 'bfloat16'"):
        torch_dtype("bfloat")


def test_a_timer_stands_still_after_its_block():
    with Timer() as timer:
        running = timer.seconds
    stopped = timer.seconds

    assert 0 <= running <= stopped == timer.seconds
    assert peak_memory_gib() > 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets the peak")
def test_memory_that_was_given_back_is_not_in_a_peak_that_was_reset():
    held = torch.ones(2**27)  # half a GiB
    before = peak_memory_gib()
    del held

    assert reset_peak_memory()

    assert peak_memory_gib() < before - 0.3
