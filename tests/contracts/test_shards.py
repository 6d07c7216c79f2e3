"""Scores whose windows several jobs share: the same to the last bit, however many jobs."""

import pytest

from fusegpt.errors import ArtifactError, ConfigError
from fusegpt.importance import METRICS
from fusegpt.models.surgery.removal import remove
from fusegpt.pruning.recipe import resolve
from fusegpt.pruning.scoring import add_up, check_shards, score_shard, score_step
from fusegpt.results.base import write
from fusegpt.results.shards import Shard, read_parts
from fusegpt.units import Unit
from tests import required, tiny
from tests.quick import slow

SHARED = [name for name, line in METRICS.items() if line.from_sums]
WINDOWS = tiny.ids(7, 10)


def recipe(metric, selection="iterative", granularity="block", **importance):
    settings = {"importance": {"metric": metric, **importance}, "recovery": {"method": "none"}}
    more = {"selection": selection, "granularity": granularity, "calibration": {"batch_size": 2}}
    return resolve("mine", {**settings, **more, "dtype": "float32"})


def said(record):
    """What scores say but for time and memory."""
    return {k: v for k, v in record.to_json().items() if k not in ("seconds", "memory_gib")}


def parts(model, chosen, shards, folder, count=1):
    """The files of all parts, the last shard first."""
    files = []
    for number in range(shards, 0, -1):
        part = score_shard(model, chosen, WINDOWS, Shard(number, shards), count)
        files.append(folder / f"{number}-of-{shards}.json")
        write(files[-1], part)
    return files


@pytest.mark.parametrize("shards", [slow(1), slow(2), 3, slow(8)])  # 7 windows are 4 batches
@pytest.mark.parametrize("metric", SHARED)
def test_the_sum_of_all_parts_is_the_scores_to_the_last_bit(metric, shards, tmp_path):
    model, chosen = tiny.model("llama"), recipe(metric)

    files = parts(model, chosen, shards, tmp_path)

    whole = score_step(model, chosen, WINDOWS)
    assert said(add_up(read_parts(files, {}), chosen)) == said(whole)
    assert len({row.score for row in whole.units}) > 1


@pytest.mark.parametrize(
    ("chosen", "count"),
    [
        (recipe("sleb", granularity="mixed"), 1),
        (recipe("angular_distance", "contiguous", protect_first=1), 2),
    ],
    ids=["mixed", "contiguous"],
)
def test_all_ways_of_scoring_can_be_shared_out(chosen, count, tmp_path):
    model = tiny.model("llama")
    if chosen.selection != "contiguous":
        remove(model, Unit("mlp", 2))

    files = parts(model, chosen, 3, tmp_path, count)

    whole = score_step(model, chosen, WINDOWS, count=count)
    assert said(add_up(read_parts(files, {}), chosen)) == said(whole)


@pytest.mark.parametrize("metric", [name for name in METRICS if name not in SHARED])
def test_a_metric_that_must_see_all_windows_says_so(metric):
    chosen = recipe(metric, **required.METRICS.get(metric, {}))
    with pytest.raises(ConfigError, match=f"add up over windows, as .*, got '{metric}' with"):
        check_shards(chosen)


def test_pairs_of_blocks_say_so_too():
    with pytest.raises(ConfigError, match=r"got 'angular_distance' with \{'pairs': True\}; score"):
        check_shards(recipe("angular_distance", pairs=True))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The parts of two shards by two metrics."""
    folder = tmp_path_factory.mktemp("parts")
    model = tiny.model("llama")
    return {name: parts(model, recipe(name), 2, _new(folder / name)) for name in SHARED[:2]}


def _new(folder):
    folder.mkdir()
    return folder


def test_parts_of_other_scores_are_refused(files):
    one, other = files.values()
    with pytest.raises(ArtifactError, match=r"of the same scores as the others, its metric is"):
        read_parts([one[0], other[1]], {})
    with pytest.raises(ArtifactError, match=r"its recipe is None, not 'mine-01234567'; delete"):
        read_parts(one, {"recipe": "mine-01234567"})


def test_a_part_too_few_or_too_many_is_refused(files):
    (second, first) = files[SHARED[0]]
    with pytest.raises(ArtifactError, match="all 2 shards must be given, shard 1 is not"):
        read_parts([second], {})
    with pytest.raises(ArtifactError, match="shard 1 must be given once, is given twice"):
        read_parts([first, second, first], {})


def test_a_damaged_part_is_refused(files, tmp_path):
    damaged = tmp_path / "1-of-2.json"
    damaged.write_text(files[SHARED[0]][1].read_text().replace('"weight":', '"wait":', 1))
    with pytest.raises(ArtifactError, match=r"1-of-2\.json"):
        read_parts([damaged], {})


def test_every_batch_is_in_one_shard():
    pieces = list(range(11))
    for shards in range(1, 14):
        cut = [Shard(number, shards).part(pieces) for number in range(1, shards + 1)]
        assert [piece for part in cut for piece in part] == pieces
        assert max(map(len, cut)) - min(map(len, cut)) <= 1
