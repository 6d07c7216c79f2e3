"""Shipped recipes keep their ids and their text: another one would orphan users' results.

The numbers are those that version 0.1.0 printed for each recipe by its name.
"""

import json
from pathlib import Path

import pytest

from fusegpt.pruning.recipe import load_recipe, recipe_names

GOLDEN = json.loads(Path(__file__).with_name("recipes.json").read_text())


@pytest.mark.parametrize("name", GOLDEN)
def test_a_shipped_recipe_has_the_id_and_the_text_that_it_always_had(name):
    recipe = load_recipe(name)
    assert recipe.id == GOLDEN[name]["id"]
    # Snakemake compares the text of parameters, so the order of keys counts as well
    assert json.dumps(recipe.to_json()) == json.dumps(GOLDEN[name]["recipe"])


def test_every_shipped_recipe_is_held():
    """A new recipe is added to the table with the id that it is published with."""
    assert set(recipe_names()) == set(GOLDEN)
