"""The group around a removed block (Eq. 4)."""

import pytest

from fusegpt.recovery.group import neighbours

DENSE = list(range(32))


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (0, [1, 2, 3, 4, 5, 6, 7]),
        (1, [0, 2, 3, 4, 5, 6, 7]),
        (3, [0, 1, 2, 4, 5, 6, 7]),
        (4, [0, 1, 2, 3, 5, 6, 7]),
        (15, [11, 12, 13, 14, 16, 17, 18]),
        (28, [24, 25, 26, 27, 29, 30, 31]),
        (31, [24, 25, 26, 27, 28, 29, 30]),
    ],
)
def test_seven_neighbours_are_four_to_the_left_and_three_to_the_right_within_the_model(
    index, expected
):
    assert neighbours(DENSE, index, 7) == expected


@pytest.mark.parametrize(("index", "expected"), [(0, [1, 2]), (5, [4, 6]), (31, [29, 30])])
def test_an_even_group_is_split_evenly(index, expected):
    assert neighbours(DENSE, index, 2) == expected


def test_a_group_counts_living_blocks_only():
    assert neighbours([0, 1, 4, 9, 10, 11], 4, 3) == [0, 1, 9]


@pytest.mark.parametrize("index", range(4))
def test_a_small_model_shrinks_the_group_to_all_others(index):
    assert neighbours(range(4), index, 7) == [block for block in range(4) if block != index]
