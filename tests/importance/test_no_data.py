"""Orders that look at no data."""

import torch

from fusegpt.importance.last_blocks import last_blocks
from fusegpt.importance.random import random
from fusegpt.units import Unit

UNITS = [Unit("block", index) for index in range(12)]


def removed_first(scores, units):
    return [units[place].index for place in torch.argsort(scores).tolist()]


def test_last_blocks_go_from_the_top():
    assert removed_first(last_blocks(None, [], UNITS), UNITS) == list(range(11, -1, -1))


def test_random_scores_depend_on_seed_and_unit_alone():
    scores = random(None, [], UNITS, seed=3)
    fewer = UNITS[4:]
    assert torch.equal(random(None, [], fewer, seed=3), scores[4:])
    assert removed_first(random(None, [], UNITS, seed=4), UNITS) != removed_first(scores, UNITS)


def test_random_orders_begin_with_every_block_sooner_or_later():
    first = {removed_first(random(None, [], UNITS, seed=seed), UNITS)[0] for seed in range(120)}
    assert first == set(range(12))
