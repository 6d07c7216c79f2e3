"""The recipes of version 0.1.0 keep their ids and texts: others would orphan users' results.

Ids and texts are what that version made of each name. A recipe that came later need not be here.
"""

import json
from pathlib import Path

import pytest

from fusegpt.pruning.recipe import load_recipe

GOLDEN = json.loads(Path(__file__).with_name("recipes.json").read_text())


@pytest.mark.parametrize("name", GOLDEN)
def test_a_shipped_recipe_has_the_id_and_the_text_that_it_always_had(name):
    recipe = load_recipe(name)
    assert recipe.id == GOLDEN[name]["id"]
    # Snakemake compares the text of parameters, so the order of keys counts as well
    assert json.dumps(recipe.to_json()) == json.dumps(GOLDEN[name]["recipe"])
