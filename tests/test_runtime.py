"""Seeds, devices, dtypes, time."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from fusegpt import runtime
from fusegpt.errors import ConfigError
from fusegpt.models.checkpoints import load as loading
from fusegpt.runtime import (
    Timer,
    device,
    generator,
    peak_memory_gib,
    reset_peak_memory,
    slow_here,
    times_slower,
    torch_dtype,
)


def test_a_generator_depends_on_its_parts_alone():
    torch.manual_seed(1)
    first = torch.rand(4, generator=generator(0, "lora", 3))
    torch.rand(7)

    assert torch.equal(torch.rand(4, generator=generator(0, "lora", 3)), first)
    assert not torch.equal(torch.rand(4, generator=generator(0, "lora", 4)), first)


@pytest.fixture
def software(monkeypatch):
    """A CPU that computes bfloat16 in software, and float16 as quickly as float32."""
    seconds = {"float32": 1e-3, "bfloat16": 4e-2, "float16": 1e-3}
    monkeypatch.setattr(runtime, "_product_seconds", seconds.__getitem__)
    caches = (times_slower, loading._tell_slow)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def test_a_type_that_this_cpu_computes_in_software_is_told_with_the_setting_that_helps(software):
    said = slow_here("bfloat16", "cpu")
    assert said.startswith("dtype bfloat16: this CPU computes it in software, 40 times as long as")
    assert "dtype: float32 is quicker here" in said
    quick = [("float32", "cpu"), ("float16", "cpu"), ("bfloat16", "cuda:0")]
    assert [slow_here(*where) for where in quick] == [None] * 3


def test_it_is_told_once_for_all_models_that_a_process_loads(software, tiny_llama_dir, caplog):
    for _ in range(2):
        loading.load(tiny_llama_dir, dtype="bfloat16")
    loading.load(tiny_llama_dir, dtype="float32")
    told = [record.getMessage() for record in caplog.records if "in software" in record.message]
    assert len(told) == 1


def test_products_are_tried_and_none_of_them_takes_no_time():
    times_slower.cache_clear()
    assert 0 < times_slower("bfloat16") < 1e5


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cudax", ""])
def test_an_unknown_device_is_refused(name):
    with pytest.raises(ConfigError, match=r"device: must be cpu, cuda or cuda:N"):
        device(name)


def test_a_device_that_is_absent_is_refused():
    with pytest.raises(ConfigError, match=r"'cuda:99' is not there; \d+ CUDA devices are visible"):
        device("cuda:99")


@pytest.mark.parametrize(
    ("said", "precision"), [(None, "highest"), ("0", "highest"), ("1", "high")]
)
def test_float32_products_are_rounded_on_request_alone(said, precision, monkeypatch):
    monkeypatch.delenv("FUSEGPT_TF32", raising=False)
    if said is not None:
        monkeypatch.setenv("FUSEGPT_TF32", said)
    before = torch.get_float32_matmul_precision()
    try:
        device("cpu")
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


def test_anything_else_in_the_request_is_refused(monkeypatch):
    monkeypatch.setenv("FUSEGPT_TF32", "yes")
    with pytest.raises(ConfigError, match="FUSEGPT_TF32: must be 0 or 1, got 'yes'"):
        device("cpu")


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


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells them apart")
def test_the_peak_of_a_process_is_not_that_of_the_one_that_started_it():
    held = b"x" * 2**28  # a quarter of a GiB
    code = "from fusegpt.runtime import peak_memory_gib as peak; print(peak())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert 0 < float(done.stdout) < len(held) / 2**30


def test_the_peak_of_a_gpu_counts_whichever_number_it_has(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", [0, 3 * 2**30].__getitem__)
    reset = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)

    assert peak_memory_gib() == 3
    reset_peak_memory()
    assert reset == [0, 1]


def test_a_job_on_the_cpu_starts_no_gpu_to_ask_for_its_peak(monkeypatch):
    def started(*_):
        pytest.fail("a full GPU would end a job that does not need it")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("current_device", "max_memory_allocated", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, started)

    reset_peak_memory()
    assert peak_memory_gib() > 0
