"""Targets in place of a sparsity: read, resolved by counting, met by what comes out."""

import json

import pytest

from fusegpt import prune_model
from fusegpt.cli import fusegpt_command, run
from fusegpt.data.shape import block_shape
from fusegpt.errors import ConfigError
from fusegpt.evaluation.inference import cache_bytes, decode_bytes
from fusegpt.models.checkpoints.load import load
from fusegpt.pruning.counting import resolve_target
from fusegpt.pruning.recipe import resolve
from fusegpt.pruning.target import Target, read_target
from fusegpt.work import Shape
from fusegpt.workflow.describe import as_text, describe

SMOL = Shape(
    **{"values": 3538944, "sides": 10176, "width": 576, "rest": 1152, "vocab": 49152},
    **{"total": 134515008, "mlp": 2654208, "cache": 384, "stored": 269030016},
)


def recipe(importance=None, **settings):
    chosen = {"metric": "last_blocks", **(importance or {})}
    sections = {"importance": chosen, "recovery": {"method": "none"}, "dtype": "bfloat16"}
    return resolve("mine", {**sections, **settings})


def resolved(text, shape=SMOL, num_blocks=30, importance=None, **settings):
    return resolve_target(
        read_target(text), recipe(importance, **settings), shape, num_blocks, "here", model="m"
    )


@pytest.mark.parametrize(
    ("text", "count", "left"),
    [
        ("parameters=100M", 10, "which leaves 99,114,048 parameters"),
        ("parameters=99114048", 10, "which leaves 99,114,048 parameters"),
        ("parameters=99114047", 11, "which leaves 95,573,952 parameters"),
        ("parameters=0.2B", 0, "which leaves 134,515,008 parameters"),
        ("file_size=200MB", 10, "which leaves 198,228,096 bytes"),
        ("file_size=190MiB", 10, "which leaves 198,228,096 bytes"),
        ("blocks=24", 6, "which leaves 24 blocks"),
        ("speedup=1.3", 9, "which decodes 1.310 times as fast, counted by the bytes read"),
        # 2 bytes of 134.5M values and of 30 blocks that keep 384 values of 8192 tokens
        ("memory=400MB,context=8192", 5, "which leaves 390,915,456 bytes"),
        ("memory=400MB,batch=2,context=8192", 13, "which leaves 390,897,024 bytes"),
    ],
)
def test_a_target_takes_as_few_removals_as_counting_allows(text, count, left):
    found = resolved(text)
    assert (found.count, found.units, found.left) == (count, 30, left)


def test_a_target_is_written_as_the_command_line_takes_it():
    for text in ("parameters=100M", "file_size=190MiB", "speedup=1.3", "blocks=24"):
        assert read_target(text).text == text
    assert read_target("parameters=134515008").text == "parameters=134515008"
    assert read_target("memory=6GB, context=8192").text == "memory=6GB,batch=1,context=8192"
    assert Target(parameters=100_000_000) == Target(parameters="100M") == Target(parameters="0.1B")


def test_bytes_are_those_of_the_type_that_is_stored():
    assert resolved("file_size=200MB", dtype="float32").count == 10
    stored = resolved("file_size=400MB", checkpoint_dtype="float32")
    assert (stored.count, stored.left) == (10, "which leaves 396,456,192 bytes")


def test_where_files_hold_several_types_a_unit_counts_in_the_smaller():
    shape = SMOL.model_copy(update={"stored": 2 * SMOL.total + 2 * 30_000_000})  # some in float32
    found = resolved("file_size=250MB", shape)
    assert (found.count, found.left) == (12, "which leaves at most 244,067,712 bytes")


def test_attentions_and_mlps_are_counted_by_their_own_matrices():
    assert resolved("parameters=100M", granularity="mlp").count == 14  # of 2.65M
    assert resolved("parameters=130M", granularity="attention").count == 6  # of 0.88M
    mixed = resolved("parameters=130M", granularity="mixed")  # whichever goes
    assert (mixed.count, mixed.units) == (6, 60) and "at most" in mixed.left
    memory = [
        resolved("memory=450MB,context=8192", granularity=granularity).count
        for granularity in ("block", "attention", "mlp")
    ]
    assert memory == [1, 1, 2]  # an mlp keeps nothing of a token


def test_blocks_that_differ_count_as_the_smallest():
    shape = SMOL.model_copy(update={"smallest": 3_000_000})
    found = resolved("parameters=100M", shape)
    assert (found.count, found.left) == (12, "which leaves at most 98,515,008 parameters")
    with pytest.raises(ConfigError, match="must be for whole blocks here, as the model's differ"):
        resolved("parameters=100M", shape, granularity="mlp")


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        (
            "parameters=20M",
            {},
            "here: parameters=20M cannot be met for m: recipe 'mine' can remove 29 of 30 units,"
            " which leaves 31,852,224 parameters; nearer is not possible",
        ),
        ("blocks=10", {"importance": {"protect": ["0-14"]}}, "can remove 15 of 30 units, which le"),
        ("blocks=27", {"importance": {"metric": "given", "blocks": [3, 4]}}, "can remove 2 of 30"),
        ("speedup=9", {}, "can remove 29 of 30 units, which decodes 4.223 times as fast"),
        ("blocks=31", {}, "here: blocks=31 must be at most 30, as m has"),
        ("blocks=24", {"granularity": "mixed"}, "blocks=24 must be for recipes that remove blocks"),
        ("parameters=1M", {"shape": None}, "here: parameters=1M needs the shape of m in its entry"),
        (
            "memory=1GB,context=9",
            {"shape": SMOL.model_copy(update={"cache": None})},
            "memory=1GB,batch=1,context=9 needs 'cache' in the model's shape; fusegpt info",
        ),
        ("parameters=1M", {"shape": SMOL.model_copy(update={"total": 0})}, "needs 'total' in the"),
        ("parameters=100X", {}, "--target.parameters: must be an amount such as 100M (k, M, B, G)"),
        ("parameters=-1", {}, "must be an amount such as 100M (k, M, B, G), got -1"),
        ("parameters=0", {}, "--target.parameters: must be above 0, got 0"),
        ("file_size=2", {}, "must be an amount such as 200MB (B, kB, MB, GB, TB, KiB, MiB, GiB, T"),
        ("speedup=1", {}, "--target.speedup: must be greater than 1, got 1"),
        ("blocks=24,parameters=1M", {}, "--target: must name one of parameters, file_size, memory"),
        (
            "batch=2",
            {},
            "must name one of parameters, file_size, memory, speedup, blocks, got none",
        ),
        ("memory=1GB", {}, "memory: must come with context, the tokens of a sequence, got none"),
        ("blocks=3,context=3", {}, "batch and context: must come with memory, got blocks"),
        ("paramters=1M", {}, "unknown setting 'paramters'; did you mean 'parameters'?"),
        ("parameters", {}, "--target: must be like parameters=100M, got 'parameters'"),
        ("parameters=", {}, "--target: must be like parameters=100M, got 'parameters='"),
    ],
)
def test_what_cannot_be_met_or_read_is_refused_in_one_line(text, settings, message):
    with pytest.raises(ConfigError) as caught:
        resolved(text, **settings)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_the_verb_prunes_to_a_target_by_the_models_own_headers(strong_llama_dir, tmp_path, capsys):
    dense = block_shape(strong_llama_dir, 6)
    wanted = dense.total - 2 * dense.block
    line = ["prune", "--model", str(strong_llama_dir), "--recipe", "last_blocks", "--dtype"]
    line += ["float32", "--target", f"parameters={wanted}"]

    assert not run(fusegpt_command, [*line, "--output", str(tmp_path / "out")])

    record = json.loads((tmp_path / "out/fusegpt.json").read_text())
    assert (record["kept"], record["parameters"]) == ([0, 1, 2, 3], wanted)
    said = f"parameters={wanted}: 2 of 6 units go, which leaves {wanted:,} parameters"
    assert said in capsys.readouterr().err
    assert record["target"] == read_target(f"parameters={wanted}").text
    assert f"- asked for: {record['target']}\n" in (tmp_path / "out/README.md").read_text()
    assert record["target"] in as_text(describe(tmp_path / "out"))
    # from what came out, further down
    chosen = resolve("b", {"importance": {"metric": "last_blocks"}, "recovery": {"method": "none"}})
    prune_model(tmp_path / "out", chosen, Target(blocks=3), None, tmp_path / "less")
    assert json.loads((tmp_path / "less/fusegpt.json").read_text())["kept"] == [0, 1, 2]


@pytest.mark.parametrize("granularity", ["attention", "mlp", "mixed"])
def test_sublayers_are_counted_on_the_model_itself(strong_llama_dir, tmp_path, granularity):
    dense = block_shape(strong_llama_dir, 6)
    mine = recipe(granularity=granularity, dtype="float32")
    target = Target(parameters=dense.total - 1)

    prune_model(strong_llama_dir, mine, target, None, tmp_path / "out")

    record = json.loads((tmp_path / "out/fusegpt.json").read_text())
    assert len(record["removed"]) == 1 and record["parameters"] < dense.total


def test_what_speed_counts_as_ideal_is_at_least_what_a_target_counted(strong_llama_dir, tmp_path):
    shape = block_shape(strong_llama_dir, 6)
    found = resolve_target(read_target("speedup=1.2"), recipe(), shape, 6, "here")
    prune_model(
        strong_llama_dir, recipe(dtype="float32"), Target(speedup=1.2), None, tmp_path / "out"
    )
    models = [load(path, dtype="float32") for path in (strong_llama_dir, tmp_path / "out")]

    bare = decode_bytes(models[0], 1, 0, 0.0) / decode_bytes(models[1], 1, 0, 0.0)

    assert float(found.left.split()[2]) == pytest.approx(bare, abs=5e-4)
    assert 1.2 <= bare


def test_a_token_takes_the_cache_that_the_shape_says(strong_llama_dir):
    model = load(strong_llama_dir, dtype="float32")
    assert cache_bytes(model, 8) == 6 * 4 * block_shape(strong_llama_dir, 6).cache


def test_an_amount_that_stands_twice_is_refused():
    with pytest.raises(ConfigError, match=r"--target: must say each amount once, got 'blocks=4,bl"):
        read_target("blocks=4,blocks=5")
