"""The model card: front matter the hub reads, and what a reader needs."""

import yaml

from fusegpt.reports.card import card

INFO = {
    "base_model": "org/base-30",
    "licence": "Apache-2.0",
    "num_blocks": 6,
    "kept": [0, 1, 2, 5],
    "removed": [{"granularity": "block", "index": 4}, {"granularity": "block", "index": 3}],
    "fused": {"2": [4, 3], "5": [4]},
    "recipe": {"name": "fusegpt", "recovery": {"method": "fusion"}},
    "parameters": 1234567,
}
ROW = {
    "task": "wikitext2",
    "metric": "perplexity",
    "value": 31.4159,
    "unit": "1",
    "num_samples": 20,
    "protocol": {"length": 512, "join": "\n|"},
}


def front_matter(text: str) -> dict:
    return yaml.safe_load(text.split("---")[1])


def test_front_matter_names_licence_base_model_and_library():
    front = front_matter(card(INFO))
    assert front["license"] == "apache-2.0"
    assert front["base_model"] == "org/base-30"
    assert front["library_name"] == "transformers"
    assert front["pipeline_tag"] == "text-generation"
    assert "depth-pruning" in front["tags"]


def test_a_local_base_model_is_told_but_not_linked_on_the_hub():
    text = card({**INFO, "base_model": "/models/mine"})
    assert "base_model" not in front_matter(text)
    assert "`/models/mine`" in text


def test_the_licence_is_the_base_models_and_an_unknown_one_is_told():
    assert "Apache-2.0, that of `org/base-30`" in card(INFO)
    text = card({**INFO, "licence": None})
    assert "license" not in front_matter(text) and "is not on record" in text


def test_the_card_tells_removed_kept_and_fused_blocks_by_dense_index():
    text = card(INFO)
    assert "removed, in order: block 4, block 3" in text
    assert "kept: 0-2, 5" in text
    assert "block 2 had fused into it: 4, 3" in text
    assert "4 of 6 blocks" in text and "1,234,567 parameters" in text


def test_results_come_with_their_protocol():
    text = card(INFO, [ROW])
    assert r'| wikitext2 | perplexity | 31.42 | 20 | length 512, join "\n\|" |' in text
    assert "Nothing was measured" in card(INFO)


def test_the_recipe_stands_in_full():
    assert '"method": "fusion"' in card(INFO)
