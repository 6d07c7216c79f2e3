"""A bit that flipped in any kind of file below ``results/`` is noticed, and its file is named."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fusegpt.results import layout as at
from fusegpt.workflow.verify import verify
from tests.reliability.everything import make_everything

pytestmark = (
    pytest.mark.slow
)  # a run of everything first; tests/workflow/test_verify.py has stand-ins

KINDS = {
    **{
        name: getattr(at, name)
        for name in (
            *("source", "windows", "dense_scores", "recipe", "scores", "manifest", "delta"),
            *("training", "resume", "trials", "checkpoint", "checkpoint_card", "sliced"),
            *("slice_card", "card", "evaluation", "table", "table_record", "figure", "report"),
            *("stored",),
        )
    },
    "files of a model": "models/*/*[!e].[jst]*",
    "files of a checkpoint": "checkpoints/*/*/*/[cgmt]*",
    "files of a sliced model": "slices/*/*/*/[cgmt]*",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory, tiny_llama_dir) -> Path:
    """Results with every kind of file; each test leaves them as they were."""
    return make_everything(tmp_path_factory.mktemp("everything"), tiny_llama_dir)


def files_of(results: Path, kind: str) -> list[Path]:
    pattern = KINDS[kind]
    if isinstance(pattern, at.Pattern):
        return [found.path for found in pattern.found_in(results)]
    return sorted(results.glob(pattern))


def test_results_as_they_were_written_have_no_problem(results):
    found = verify(results)

    assert found.problems == []
    assert found.unknown == []
    assert all(files_of(results, kind) for kind in KINDS)


@pytest.mark.parametrize(
    "flips", [1, pytest.param(12, marks=pytest.mark.slow)], ids=["once", "often"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_noticed_and_its_file_named(results, kind, flips):
    draw = random.Random(f"{kind} {flips}")
    for _ in range(flips):
        file = draw.choice(files_of(results, kind))
        whole = file.read_bytes()
        flipped = bytearray(whole)
        place, bit = draw.randrange(len(whole)), draw.randrange(8)
        flipped[place] ^= 1 << bit
        file.write_bytes(flipped)
        try:
            found = verify(results)
        finally:
            file.write_bytes(whole)
        # a bit of the digest's own name leaves a file without a digest, which is said as well
        problems = found.problems
        told = [line for line in problems if file.name in line or file.parent.name in line]
        assert told or file in found.unknown, (file, place, bit, problems)
        assert not any("\n" in line for line in problems)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_was_cut_off_is_noticed_and_named(results, kind):
    file = files_of(results, kind)[-1]
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    try:
        found = verify(results)
    finally:
        file.write_bytes(whole)

    told = [*found.problems, *map(str, found.unknown)]
    assert any(file.name in line for line in told), told
