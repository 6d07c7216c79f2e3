"""The model card: front matter the hub reads, and what a reader needs."""

from huggingface_hub import ModelCard

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
    return ModelCard(text).data.to_dict()


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
    assert r'| wikitext2 | perplexity | 31.42 | 20 | length 512, join "\\n\|" |' in text
    assert "Nothing was measured" in card(INFO)


def test_the_recipe_stands_in_full():
    assert '"method": "fusion"' in card(INFO)


HUB_ROW = {
    **ROW,
    "value": 1.23456789,
    "protocol": {
        "source": "hub:Salesforce/wikitext@b08601e/wikitext-2-raw-v1/test.parquet",
        "variant": "wikitext-2-raw-v1",
        "split": "test",
        "cut": None,
    },
}


def test_the_hub_reads_the_results_with_their_protocol_from_the_front_matter():
    data = ModelCard(card(INFO, [ROW, HUB_ROW])).data
    assert data.model_name == "base-30, fusegpt"
    one, other = data.eval_results
    assert (one.dataset_name, one.metric_type, one.metric_value) == (
        "wikitext2",
        "perplexity",
        31.4159,
    )
    assert one.metric_args == {"length": 512, "join": "\n|"}
    assert (other.dataset_type, other.dataset_revision) == ("Salesforce/wikitext", "b08601e")
    assert (other.dataset_config, other.dataset_split) == ("wikitext-2-raw-v1", "test")
    assert other.metric_value == 1.23457 and "cut" not in other.metric_args
    assert "model-index" not in front_matter(card(INFO))


def test_foreign_words_show_as_they_are():
    row = {**ROW, "task": "<b>x</b> [a](b)\n| y"}
    info = {**INFO, "base_model": "org/`x`\n# no title", "licence": "*mine*\n---"}
    info["recipe"] = {"name": "```\n# no heading"}
    text = card(info, [row])
    assert r"| \<b\>x\</b\> \[a\](b) \| y | perplexity |" in text
    assert "Depth-pruned from `org/'x' # no title`: " in text
    assert r"\*mine\* ---, that of" in text
    assert front_matter(text)["license"] == "*mine*\n---"
    starts = [line.partition(" ")[0] for line in text.splitlines()]
    assert starts.count("#") == 1 and sum(start.startswith("```") for start in starts) == 4
