"""Recipes: strict, complete, and named by what their results depend on."""

import json

import pytest

from fusegpt.errors import ConfigError, FuseGPTError, UnknownNameError
from fusegpt.pruning.recipe import load_recipe, read_recipe, recipe_names, recipe_settings, resolve
from fusegpt.recovery.settings.whole import NoRecovery

FUSION = {"importance": {"metric": "macro_influence"}, "recovery": {"method": "fusion"}}


CHAINS = [name for name in recipe_names() if "width" not in recipe_settings(name)[1]]


@pytest.mark.parametrize("name", CHAINS)
def test_every_recipe_file_is_valid(name):
    assert load_recipe(name).id.startswith(f"{name}-")


def test_the_defaults_of_fusegpt_are_the_published_values():
    recovery = load_recipe("fusegpt").recovery
    assert recovery.group_size == 7
    assert recovery.rank == recovery.lora_rank == 128
    assert recovery.epochs == 20
    assert recovery.batch_size == 8
    assert recovery.learning_rate == 9.65e-6
    assert recovery.coefficient_learning_rate == 1e-3
    assert load_recipe("fusegpt").calibration.sequences == 32
    assert load_recipe("fusegpt").finetune.sequences == 1024


def test_naming_a_default_does_not_change_the_id():
    spelled = {**FUSION, "recovery": {"method": "fusion", "rank": 128}, "dtype": "bfloat16"}
    assert resolve("a", spelled).id == resolve("a", FUSION).id


def test_ids_are_stable_across_versions_of_the_code():
    """A changed id orphans users' results; raise SCHEMA_VERSION knowingly or not at all."""
    assert resolve("fusegpt", FUSION).id == "fusegpt-c7cdf192"


@pytest.mark.parametrize(
    "change",
    [
        {"recovery": {"epochs": 3}},
        {"importance": {"protect_first": 1}},
        {"calibration": {"length": 64}},
        {"finetune": {"corpus": "c4"}},
        {"dtype": "float32"},
        {"selection": "one_shot"},
        {"granularity": "attention"},
        {"seed": 1},
    ],
)
def test_every_setting_changes_the_id(change):
    assert resolve("a", FUSION, change).id != resolve("a", FUSION).id


def test_fine_tuning_data_does_not_change_the_id_of_a_recipe_that_does_not_train():
    plain = {"importance": {"metric": "macro_influence"}, "recovery": {"method": "none"}}
    assert resolve("a", plain, {"finetune": {"length": 64}}).id == resolve("a", plain).id


def test_overrides_go_to_the_methods_that_have_them():
    plain = {"importance": {"metric": "macro_influence"}, "recovery": {"method": "none"}}
    assert resolve("a", plain, {"recovery": {"rank": 4}}).recovery == NoRecovery()
    assert resolve("a", FUSION, {"recovery": {"rank": 4}}).recovery.rank == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recovery": {"rnk": 4}}, "recipes.a.recovery: unknown setting 'rnk'; did you mean"),
        ({"recovery": {"rank": 0}}, "recipes.a.recovery.rank: must be greater than 0, got 0"),
        ({"recovery": {"batch_size": 1}}, "batch_size: must be at least 2, got 1; Eq. 7"),
        ({"recovery": {"method": "none"}}, "recovery.method: an experiment cannot change it"),
        ({"recovery": 3}, "recipes.a.recovery: must be a table of settings, got 3"),
        ({"importance": {"protect_last": -1}}, "protect_last: must be at least 0, got -1"),
        ({"finetune": {"sequences": 4}}, "finetune.sequences: must fill one batch of 8, got 4"),
        ({"dtype": "f16"}, "recipes.a.dtype: must be 'float32'"),
        (
            {"dtype": "float16"},
            "recipes.a.dtype: must be 'bfloat16' or 'float32' with fusion, which",
        ),
        (
            {"recovery": {"trainable_dtype": "float16"}},
            "recipes.a.recovery.trainable_dtype: must be",
        ),
        ({"selection": "random"}, "recipes.a.selection: must be"),
        ({"granularity": "head"}, "recipes.a.granularity: must be 'block', 'attention', 'mlp' or"),
        ({"sparsity": 0.2}, "recipes.a: unknown setting 'sparsity'"),
    ],
)
def test_a_bad_setting_is_named_with_what_is_allowed(settings, message):
    with pytest.raises(ConfigError) as caught:
        resolve("a", FUSION, settings)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "takes"),
    [
        ("macro_influence", None),
        ("sleb_distill_fresh", "finish distill"),
        ("macro_influence_lora", "lora"),
        ("shortened_llama", "taylor"),
        ("foldgpt_gates", "gates"),
        ("slicegpt", None),
        ("flexigpt", "flexigpt"),
        ("foldgpt", "foldgpt"),
    ],
)
def test_float16_is_refused_where_gradients_go_back_through_the_model(name, takes):
    if takes is None:
        assert load_recipe(name, {"dtype": "float16"}).dtype == "float16"
        return
    with pytest.raises(ConfigError, match=f"{name}.dtype: must be 'bfloat16' or .* with .*{takes}"):
        load_recipe(name, {"dtype": "float16"})
    assert load_recipe(name, {"dtype": "bfloat16"}).dtype == "bfloat16"


def test_a_recipes_own_settings_lie_over_those_of_the_experiment_and_must_fit_its_method():
    overrides = {"finetune": {"length": 64}, "recovery": {"epochs": 3, "lora_rank": 32}}
    own = {"finetune": {"sequences": 16}, "recovery": {"lora_rank": 64}}
    twin = load_recipe("macro_influence_finetune_equal", overrides, own=own)
    assert (twin.recovery.epochs, twin.recovery.lora_rank) == (3, 64)
    assert (twin.finetune.length, twin.finetune.sequences) == (64, 16)
    with pytest.raises(ConfigError, match=r"macro_influence_finetune_equal.recovery.*donor"):
        load_recipe("macro_influence_finetune_equal", own={"recovery": {"donor": "self"}})


def test_an_unknown_method_is_answered_with_the_closest():
    with pytest.raises(UnknownNameError, match="'macro_influnce'; did you mean 'macro_influence'"):
        resolve("a", {**FUSION, "importance": {"metric": "macro_influnce"}})
    with pytest.raises(UnknownNameError, match="unknown recipe 'fusgpt'; did you mean 'fusegpt'"):
        load_recipe("fusgpt")


@pytest.mark.parametrize("name", ["../x", "a b", "a;b", "a\nb", "ä", "", "A"])
def test_a_hostile_name_is_refused(name):
    with pytest.raises(ConfigError, match="must be lower-case letters"):
        resolve(name, FUSION)


def test_a_recipe_file_is_read_and_a_complete_record_gives_the_same_id(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("importance: {metric: macro_influence}\nrecovery: {method: fusion, rank: 8}\n")
    recipe = load_recipe(file)
    record = tmp_path / "recipe.json"
    record.write_text(json.dumps(recipe.to_json()))
    assert read_recipe(record).id == recipe.id
    file.write_text("recovery: [")
    with pytest.raises(ConfigError, match="not a YAML file"):
        load_recipe(file)


def test_rows_of_a_corpus_take_the_place_of_a_number_of_windows():
    plain = {"importance": {"metric": "sleb"}, "recovery": {"method": "none"}}
    rows = {**plain, "calibration": {"rows": 128}}
    recipe = resolve("a", rows, {"calibration": {"sequences": 8, "length": 64}})
    assert recipe.calibration.rows == 128
    assert recipe.calibration.length == 64
    assert recipe.id == resolve("a", rows, {"calibration": {"length": 64}}).id
    assert recipe.id != resolve("a", plain, {"calibration": {"length": 64}}).id


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"importance": {"metric": "sleb"}, "selection": "contiguous"},
            "recipes.a.selection: sleb scores no runs of blocks; 'contiguous' is for"
            " block_influence, angular_distance",
        ),
        (
            {
                "importance": {"metric": "angular_distance"},
                "selection": "contiguous",
                "recovery": {"method": "finetune"},
            },
            "recipes.a.selection: finetune recovers one block at a time; with 'contiguous' the"
            " recovery must be none",
        ),
        (
            {"importance": {"metric": "sleb", "reference": "original"}},
            "importance.reference: sleb compares with no other model; 'original' is for"
            " macro_influence, shapley",
        ),
        (
            {"importance": {"metric": "shapley", "reference": "original"}},
            "importance.reference: 'original' needs target 'logits'",
        ),
        (
            {"importance": {"metric": "macro_influence", "reference": "dense"}},
            "importance.reference: must be 'current' or 'original', got 'dense'",
        ),
        (
            {"importance": {"metric": "shapley", "kept": 1.0}},
            "importance.kept: must be less than 1, got 1.0",
        ),
        ({"importance": {"metric": "random", "seed": 1}}, "unknown setting 'seed'"),
        (
            {
                "importance": {"metric": "random"},
                "recovery": {"method": "streamline", "loss": "next_token", "teacher": "original"},
            },
            "recipes.a.recovery.teacher: must be 'current' with loss 'next_token'",
        ),
        (
            {"importance": {"metric": "sleb"}, "calibration": {"length": 1}},
            "recipes.a.calibration.length: must be at least 2, got 1; sleb is a loss",
        ),
        (
            {"importance": {"metric": "shapley"}, "calibration": {"length": 1}},
            "recipes.a.calibration.length: must be at least 2, got 1; shapley is a loss",
        ),
        (
            {
                "importance": {"metric": "random", "protect_first": 1},
                "recovery": {"method": "least_squares"},
                "finetune": {"length": 1},
            },
            "recipes.a.finetune.length: must be at least 2, got 1; least_squares is judged",
        ),
        (
            {"importance": {"metric": "shapley", "subnetworks": "sampled", "kept": 0}},
            "recipes.a.importance.kept: must be above 0 with sampled sub-networks, got 0",
        ),
        (
            {
                "importance": {"metric": "random"},
                "recovery": {"method": "fusion", "lora_rank": 0, "train_norms": True},
            },
            "recipes.a.recovery.train_norms: needs a lora_rank above 0",
        ),
        (
            {"importance": {"metric": "random"}, "rerank": {}},
            "recipes.a.rerank: tries the recovery of each step, which none has not; the recovery"
            " must be one of finetune, fusion",
        ),
        (
            {"importance": {"metric": "random"}, "rerank": {}, "recovery": {"method": "lora"}},
            "recipes.a.rerank: tries the recovery of each step, which lora has not",
        ),
        (
            {
                "importance": {"metric": "block_influence"},
                "selection": "contiguous",
                "rerank": {},
                "recovery": {"method": "streamline"},
            },
            "recipes.a.rerank: tries one unit at a time; with it the selection must be",
        ),
        (
            {
                "importance": {"metric": "random"},
                "rerank": {"sequences": 4},
                "recovery": {"method": "fusion"},
            },
            "recipes.a.rerank.sequences: must fill one batch of 8, got 4",
        ),
        (
            {
                "importance": {"metric": "random"},
                "rerank": {},
                "recovery": {"method": "fusion"},
                "finetune": {"sequences": 32},
            },
            "recipes.a.finetune.sequences: must be at least 40, rerank's sequences and judged,",
        ),
        (
            {
                "importance": {"metric": "block_influence"},
                "selection": "contiguous",
                "granularity": "attention",
            },
            "recipes.a.selection: 'contiguous' takes runs of whole blocks; with granularity"
            " 'attention' it must be 'iterative' or 'one_shot'",
        ),
        (
            {
                "importance": {"metric": "sleb"},
                "granularity": "mixed",
                "recovery": {"method": "streamline"},
            },
            "recipes.a.recovery: streamline replaces whole blocks; with granularity 'mixed' it must"
            " be one of none, finetune, fusion, additive_bias, low_rank, least_squares, lora",
        ),
        (
            {
                "importance": {"metric": "sleb"},
                "granularity": "mlp",
                "recovery": {"method": "low_rank"},
            },
            "recipes.a.importance.protect_first: must be at least 1, got 0",
        ),
        (
            {
                "importance": {"metric": "sleb", "protect_first": 1},
                "granularity": "mlp",
                "recovery": {"method": "low_rank", "teacher": "original"},
            },
            "recipes.a.recovery.teacher: low_rank fits one sublayer at a time",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_runs(settings, message):
    with pytest.raises(ConfigError) as caught:
        resolve("a", {"recovery": {"method": "none"}, **settings})
    assert message in str(caught.value)


def test_a_sparsity_is_a_fraction_of_the_units_of_its_granularity():
    counts = {"block": 30, "attention": 30, "mlp": 30, "mixed": 60}
    for granularity, count in counts.items():
        assert resolve("a", FUSION, {"granularity": granularity}).num_units(30) == count


def test_a_closed_form_needs_no_batch():
    settings = {
        "importance": {"metric": "random", "protect_first": 1},
        "finetune": {"sequences": 4},
    }
    resolve("a", {**settings, "recovery": {"method": "low_rank"}})
    with pytest.raises(ConfigError, match="must fill one batch of 8, got 4"):
        resolve("a", {**settings, "recovery": {"method": "low_rank", "fit": "learned"}})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("null", "must hold a JSON object"),
        ("[]", "must hold a JSON object"),
        ('{"name": 3}', "recipe name 3"),
        ('{"importance": {"metric": "sleb"}}', "recipe name ''"),
        ('{"name": "x", "importance": 3}', "recipes.x.importance: must be a table"),
        ('{"name": "x", "width": []}', "recipes.x.width: must be a table"),
    ],
)
def test_a_damaged_recipe_of_a_run_is_one_line_that_names_the_file(tmp_path, text, words):
    file = tmp_path / "recipe.json"
    file.write_text(text)

    with pytest.raises(FuseGPTError) as caught:
        read_recipe(file)

    assert str(caught.value).startswith(f"{file}: ") and words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["fusegpt", "slicegpt"])
def test_the_dtype_of_storage_is_a_setting_that_old_recipes_do_not_have(name):
    plain, wide = (load_recipe(name, over) for over in ({}, {"checkpoint_dtype": "float32"}))
    assert "checkpoint_dtype" not in plain.to_json()
    assert load_recipe(name, {"checkpoint_dtype": "source"}).id == plain.id != wide.id
    settings = wide.to_json()
    assert resolve(settings.pop("name"), settings) == wide
    with pytest.raises(ConfigError, match="checkpoint_dtype: must be 'source', 'float32'"):
        load_recipe(name, {"checkpoint_dtype": "int8"})
