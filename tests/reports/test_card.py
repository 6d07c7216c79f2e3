"""The model card: front matter the hub reads, and what a reader needs."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import ModelCard

from fusegpt.cli import fusegpt_command as command
from fusegpt.cli import run
from fusegpt.pruning.papers import papers_of
from fusegpt.reports.card import card
from fusegpt.results.models import Row, as_checkpoint
from tests.reports.conftest import BLOCKS, REMOVED, evaluation, parent, write, write_checkpoint

INFO = {
    "base_model": "org/base-30",
    "licence": "Apache-2.0",
    "num_blocks": 6,
    "kept": [0, 1, 2, 5],
    "removed": [{"granularity": "block", "index": 4}, {"granularity": "block", "index": 3}],
    "fused": {"2": [4, 3], "5": [4]},
    "recipe_id": "fusegpt-00000001",
    "recipe": {"name": "fusegpt", "recovery": {"method": "fusion"}},
    "parameters": 1234567,
}
ROW = {
    "task": "wikitext2",
    "metric": "perplexity",
    "value": 31.4159,
    "unit": "1",
    "higher_is_better": False,
    "num_samples": 20,
    "protocol": {"length": 512, "join": "\n|"},
}


SLICED = {
    **INFO,
    "kind": "slice",
    "removed": [],
    "kept": list(range(6)),
    "fused": {},
    "sparsity": 0.25,
    "hidden_size": 64,
    "width": 48,
    "kept_energy": {"embedding": 0.995, "block 3 mlp": 0.98},
}


def card_of(info: dict, rows: Sequence[dict] = (), dense: Sequence[dict] = ()) -> str:
    measured, before = ([Row.model_validate(row) for row in found] for found in (rows, dense))
    return card(as_checkpoint(info, "fusegpt.json"), measured, dense=before)


def test_the_dense_models_value_stands_beside_one_of_the_same_protocol():
    other = {**ROW, "task": "c4"}
    dense = [{**ROW, "value": 22.5}, {**other, "value": 1.0, "protocol": {"length": 2048}}]
    text = card_of(INFO, [ROW, other], dense)
    assert "| task | metric | value | dense | samples | protocol |\n" in text
    assert "| wikitext2 | perplexity | 31.42 | 22.5 | 20 |" in text
    assert "| c4 | perplexity | 31.42 | - | 20 |" in text
    assert "dense" not in card_of(INFO, [ROW]).partition("## Results")[2].partition("##")[0]


def test_what_else_differs_is_said():
    for info in (INFO, SLICED):
        assert "- drafting is 0, not 1\n" in card_of({**info, "differs": ["drafting is 0, not 1"]})


def test_a_finish_is_told_with_its_tokens_and_losses():
    finish = {"method": "distill", "tokens": 98304, "first_loss": 1.28, "last_loss": 0.41}
    info = {**INFO, "finish": finish}
    assert "trained as a whole" not in card_of(info)  # a recovery at the end, as older recipes say
    info["recipe"] = {**INFO["recipe"], "finish": {"method": "distill"}}
    said = "- then trained as a whole (distill) on 98,304 tokens: loss 1.28 to 0.41\n"
    assert said in card_of(info)
    undone = card_of({**info, "finish": {**finish, "optimizer_steps": 24, "undone": True}})
    assert f"{said[:-1]} (undone)\n" in undone and "loss rose: 1 of 1\n" in undone


def front_matter(text: str) -> dict:
    return ModelCard(text).data.to_dict()


def test_front_matter_names_licence_base_model_and_library():
    front = front_matter(card_of(INFO))
    assert front["license"] == "apache-2.0"
    assert front["base_model"] == "org/base-30"
    assert front["library_name"] == "transformers"
    assert front["pipeline_tag"] == "text-generation"
    assert "depth-pruning" in front["tags"]


def test_a_local_base_model_is_told_but_not_linked_on_the_hub():
    text = card_of({**INFO, "base_model": "/models/mine"})
    assert "base_model" not in front_matter(text)
    assert "`/models/mine`" in text


def test_the_licence_is_the_base_models_and_an_unknown_one_is_told():
    assert "Apache-2.0, the licence of `org/base-30`" in card_of(INFO)
    text = card_of({**INFO, "licence": None})
    assert "license" not in front_matter(text) and "is not on record" in text


def test_the_card_tells_removed_kept_and_fused_blocks_by_dense_index():
    text = card_of(INFO)
    assert "removed, in order: block 4, block 3" in text
    assert "remaining blocks: 0-2, 5" in text
    assert "fused into block 2: 4, 3" in text
    assert "4 of 6 blocks" in text and "1,234,567 parameters remain.\n" in text
    about = {"sha256": "0" * 64, "bytes": 2_500_000}
    files = {"config.json": about, "a.safetensors": about, "b.safetensors": about}
    assert "1,234,567 parameters remain, in files of 5.0 MB.\n" in card_of({**INFO, "files": files})


def test_results_come_with_their_protocol():
    text = card_of(INFO, [ROW])
    assert r'| wikitext2 | perplexity | 31.42 | 20 | length 512, join "\\n\|" |' in text
    assert "Nothing was measured" in card_of(INFO)


def test_the_recipe_stands_in_full_with_the_papers_of_its_methods():
    assert '"method": "fusion"' in card_of(INFO)
    recipe = {**INFO["recipe"], "importance": {"metric": "sleb"}, "dtype": "float32", "seed": 0}
    papers = papers_of(recipe, "recipe")
    text = card(as_checkpoint(INFO, "fusegpt.json"), papers=papers)
    assert "\n- SLEB, arXiv 2402.09025" in text and "\n- FuseGPT, arXiv 2411.14507" in text
    assert papers_of({**recipe, "recovery": {"method": "of_tomorrow"}}, "recipe") == papers[:1]


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
    data = ModelCard(card_of(INFO, [ROW, HUB_ROW])).data
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
    assert "model-index" not in front_matter(card_of(INFO))


def test_foreign_words_show_as_they_are():
    row = {**ROW, "task": "<b>x</b> [a](b)\n| y"}
    info = {**INFO, "base_model": "org/`x`\n# no title", "licence": "*mine*\n---"}
    info["recipe"] = {"name": "```\n# no heading"}
    text = card_of(info, [row])
    assert r"| \<b\>x\</b\> \[a\](b) \| y | perplexity |" in text
    assert "Depth-pruned from `org/'x' # no title`: " in text
    assert r"\*mine\* ---, the licence of" in text
    assert front_matter(text)["license"] == "*mine*\n---"
    starts = [line.partition(" ")[0] for line in text.splitlines()]
    assert starts.count("#") == 1 and sum(start.startswith("```") for start in starts) == 4


def sublayers(**more) -> dict:
    units = [{"granularity": kind, "index": 4} for kind in ("attention", "mlp")]
    units.append({"granularity": "attention", "index": 2})
    return {**INFO, "removed": units, "fused": {"attention 1": [2]}, **more}


def test_an_ordinary_checkpoint_needs_nothing_but_transformers():
    text = card_of(INFO)
    assert "no code besides transformers is needed" in text and "pip install" not in text


def test_a_card_without_sublayers_says_what_works_to_install_and_import():
    text = card_of(sublayers(needs="import fusegpt.models.sublayers"))
    assert "without 2 of 6 attentions and 1 of 6 mlps" in text
    assert "fused into attention 1: 2" in text
    assert "from a clone" in text and "a wheel" in text and "pip install fusegpt`" not in text
    assert "```python\nimport fusegpt.models.sublayers\nfrom transformers" in text
    assert "fusegpt merge --zeroed" in text


def test_a_zeroed_checkpoint_says_that_it_saves_nothing():
    text = card_of(sublayers(zeroed=True))
    assert "full of zeros" in text and "import fusegpt" not in text


def test_a_sliced_model_tells_its_width_and_what_to_import():
    text = card_of(SLICED)
    assert text.count("width 48 of 64") == 1 and "16 of 64 dimensions" in text and "25.0%" in text
    assert "at least 98.00% (block 3 mlp)" in text and "blocks: 6 of 6" in text
    assert "import fusegpt.slicegpt.modeling\nfrom transformers" in text
    assert "from a clone" in text and "--zeroed" not in text
    assert "width-pruning" in front_matter(text)["tags"]


def test_tunings_that_were_undone_are_counted():
    tuned = {"unit": {"granularity": "block", "index": 4}, "optimizer_steps": 8}
    steps = [tuned, {**tuned, "undone": True}, {**tuned, "optimizer_steps": 0}]
    assert "- tunings undone because their loss rose: 1 of 2\n" in card_of({**INFO, "steps": steps})
    assert "undone" not in card_of({**INFO, "steps": [tuned]})
    fitted = {**tuned, "optimizer_steps": 0, "tokens": 64, "undone": True}
    text = card_of({**INFO, "steps": [tuned, fitted]})
    assert "- tunings undone because their loss rose: 1 of 2\n" in text


def test_evaluations_of_another_model_are_not_put_on_a_card(results, tmp_path, capsys):
    directory = results / "checkpoints/tiny/mine/step-002"
    run_of = results / "runs/tiny/fusegpt-00000003"
    manifest, file = run_of / "step-002/manifest.json", directory / "fusegpt.json"
    kept = [index for index in range(BLOCKS) if index not in REMOVED[:2]]
    write_checkpoint(file, kept=kept, parent=parent(manifest, directory))
    (directory / "README.md").write_text("before")
    found = tmp_path / "found.json"

    def written(step: int, flag: str = "--evaluation", of: Path | None = None) -> str:
        write(found, evaluation(step, 3.0) | ({"parent": parent(of, tmp_path)} if of else {}))
        line = ["card", "--checkpoint", str(file), flag, str(found)]
        return capsys.readouterr().err if run(command, line) else ""

    later, dense = run_of / "step-004/manifest.json", results / "models/tiny/source.json"
    assert f"found.json: must be an evaluation of {file}, is of another model" in written(4)
    assert "is of another model" in written(2, of=later) and "another model" in written(2, of=dense)
    assert "must be an evaluation of the dense model, is of another" in written(2, "--dense")
    assert (directory / "README.md").read_text() == "before"
    assert not written(2) and not written(2, of=manifest) and not written(2, of=file)
    assert not written(0, "--dense", dense)
    write_checkpoint(file, kept=kept, parent=parent(manifest, directory), finish={"method": "full"})
    assert "is of another model" in written(2, of=manifest) and not written(2, of=file)
