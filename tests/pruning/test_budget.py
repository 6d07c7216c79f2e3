"""From a sparsity to a count (decision D14)."""

import pytest

from fusegpt.errors import ConfigError
from fusegpt.pruning.budget import removals


@pytest.mark.parametrize(
    ("blocks", "sparsity", "count"),
    [(32, 0.2, 7), (32, 0.25, 8), (32, 0.3, 10), (40, 0.2, 8), (40, 0.25, 10), (40, 0.3, 12)],
)
def test_published_sparsities_remove_the_published_counts(blocks, sparsity, count):
    assert removals(blocks, sparsity) == count


@pytest.mark.parametrize("blocks", range(8, 97))
def test_five_percent_steps_are_exact_in_decimal(blocks):
    for percent in range(0, 100, 5):
        exact = -(-blocks * percent // 100)
        if exact < blocks:
            assert removals(blocks, percent / 100) == exact


@pytest.mark.parametrize("sparsity", [-0.1, 1, 1.5, "a quarter", float("nan"), "inf"])
def test_a_sparsity_outside_zero_to_one_is_refused(sparsity):
    with pytest.raises(ConfigError, match=r"must be a fraction of units in \[0, 1\), got"):
        removals(30, sparsity)


def test_removing_every_block_is_refused():
    with pytest.raises(ConfigError, match=r"0\.99 of 30 units removes all of them; at most 29"):
        removals(30, 0.99)
