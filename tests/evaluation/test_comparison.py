import json

import numpy as np
import pytest

from fusegpt.cli import fusegpt_command, run
from fusegpt.errors import ArtifactError, DataError
from fusegpt.evaluation.comparison import compare
from fusegpt.evaluation.items import pack, unpack
from fusegpt.evaluation.summary import Summary
from fusegpt.results.models import Row


def result(values, *, task="piqa", metric="acc", better=True, of="these", **settings):
    items = pack(list(values), of, **settings)
    mean = float(np.mean(values))
    value = float(np.exp(mean)) if settings.get("statistic") == "exp_mean" else mean
    row = {"task": task, "metric": metric, "value": value, "unit": "", "higher_is_better": better}
    return [Row.model_validate({**row, "num_samples": len(values), "items": items})]


def written(path, rows):
    model = {"num_blocks": 2, "kept": [0, 1], "removed": [], "parameters": 3}
    whole = {"eval": "x", "rows": [row.to_json() for row in rows], "model": model}
    path.write_text(json.dumps(whole))
    return str(path)


def correct(count, right, seed):
    values = np.zeros(count)
    values[np.random.default_rng(seed).permutation(count)[:right]] = 1
    return values


def test_the_interval_of_a_mean_is_the_normal_one_for_many_items():
    first, second = correct(2000, 1000, 0), correct(2000, 1100, 1)
    (found,) = compare(result(first), result(second))
    difference = second - first
    half = 1.96 * difference.std(ddof=1) / np.sqrt(2000)
    assert found.difference == pytest.approx(0.05)
    assert (found.low, found.high) == pytest.approx((0.05 - half, 0.05 + half), abs=0.002)
    assert found.better is True


def test_pairing_resolves_what_two_samples_cannot():
    first = correct(200, 100, 0)
    second = first.copy()
    second[np.flatnonzero(first == 0)[:8]] = 1  # 8 more right, none lost
    (paired,) = compare(result(first), result(second))
    (shuffled,) = compare(result(first), result(np.random.default_rng(5).permutation(second)))
    assert paired.better is True and shuffled.better is None


def test_equal_models_do_not_differ():
    values = correct(50, 20, 0)
    (found,) = compare(result(values), result(values))
    assert (found.difference, found.low, found.high, found.better) == (0, 0, 0, None)


def test_perplexity_is_compared_as_perplexity():
    losses = np.linspace(2, 3, 40)
    settings = {"metric": "perplexity", "better": False, "statistic": "exp_mean"}
    (found,) = compare(result(losses, **settings), result(losses + 0.1, **settings))
    assert found.difference == pytest.approx(np.exp(2.6) - np.exp(2.5))
    assert found.low > 0 and found.low < found.difference < found.high
    assert found.better is False


def test_a_mean_over_tasks_is_resampled_within_each():
    first = np.concatenate([np.zeros(10), np.ones(1000)])
    second = np.concatenate([np.ones(10), np.ones(1000)])
    strata = {"strata": [10, 1000]}
    one, two = result(first, **strata), result(second, **strata)
    (found,) = compare(one, two)
    assert (found.low, found.high) == (0.5, 0.5)  # every item of the small task, always


def test_a_single_item_is_always_drawn():
    (found,) = compare(result([0.0]), result([1.0]))
    assert (found.low, found.high, found.better) == (1, 1, True)
    one, two = result([0, 0, 1], strata=[1, 2]), result([1, 0, 1], strata=[1, 2])
    (found,) = compare(one, two)
    assert (found.low, found.high) == (0.5, 0.5)


def test_the_numbers_are_those_of_earlier_releases():
    draw = np.random.default_rng(0)
    first, second = draw.normal(size=(2, 12)).round(3)
    strata = {"strata": [5, 7]}
    (found,) = compare(result(first, **strata), result(second, **strata))
    assert (found.low, found.high) == pytest.approx(
        (-0.9451728571428568, 0.2097449999999999), abs=1e-12
    )


def test_the_same_seed_draws_the_same():
    one, two = result(correct(30, 10, 0)), result(correct(30, 15, 1))
    assert compare(one, two) == compare(one, two)
    assert compare(one, two, seed=1) != compare(one, two)


def test_what_cannot_be_compared_is_refused():
    values = [0.0, 1.0]
    with pytest.raises(DataError, match="piqa acc: the two results were measured on different"):
        compare(result(values), result(values, of="those"))
    with pytest.raises(ArtifactError, match="nothing to compare"):
        compare(result(values), result(values, task="winogrande"))


def test_a_file_of_another_kind_is_named_with_what_is_missing(tmp_path, capsys):
    (tmp_path / "other.json").write_text("{}")
    assert run(fusegpt_command, ["compare", *[str(tmp_path / "other.json")] * 2]) == 2
    assert "other.json: must be an evaluation: rows: is required" in capsys.readouterr().err


def test_means_of_different_tasks_are_not_compared():
    one, two = result([0.0, 1.0]), result([1.0, 1.0])
    for found, tasks in ((one, "piqa, winogrande"), (two, "piqa")):
        (mean,) = result([0.0, 1.0], task="mean", of=tasks)
        found.append(mean.plus(protocol={"of": tasks}))
    assert [found.task for found in compare(one, two)] == ["piqa"]


def test_the_verb_prints_which_differences_are_real(tmp_path, capsys):
    first, second = correct(400, 200, 0), correct(400, 280, 1)
    models = {"dense": first, "same": first, "better": second}
    paths = [written(tmp_path / f"{name}.json", result(x)) for name, x in models.items()]
    assert run(fusegpt_command, ["compare", *paths, "--output", str(tmp_path / "c.json")]) == 0
    out = capsys.readouterr().out.splitlines()
    verdicts = [line for line in out if line.startswith("piqa")]
    assert "not resolved" in verdicts[0] and " better " in verdicts[1]
    record = json.loads((tmp_path / "c.json").read_text())
    assert record["others"][paths[2]][0]["better"] is True


@pytest.mark.parametrize("by_items", [True, False])
def test_a_mean_with_a_group_of_unequal_tasks_never_has_items_of_another_mean(by_items):
    sizes = {"few": (2, 2), "many": (40, 10), "piqa": (50, 20)}
    results = {}
    for name, (count, right) in sizes.items():
        values = correct(count, right, 0)
        metric = {
            "value": float(values.mean()),
            "stderr": float(values.std(ddof=1) / np.sqrt(count)),
            "higher_is_better": True,
            "values": pack(list(values), "")["values"],
        }
        protocol = {"harness": "x", "shots": 0, "dtype": "float32"}
        common = {"num_samples": count, "items": name, "protocol": protocol}
        results[name] = {**common, "metrics": {"acc": metric}}
    members = {"group": ["few", "many"], "piqa": ["piqa"]}
    summary = Summary(members, {"group": {"acc": by_items}, "piqa": {}}, None)

    group, piqa, mean = summary.rows(results)

    assert group["value"] == pytest.approx(12 / 42 if by_items else (1 + 0.25) / 2)
    assert mean["value"] == pytest.approx((group["value"] + 0.4) / 2)
    if by_items:
        strata = np.split(unpack(mean["items"]["values"]), [42])
        assert np.mean([part.mean() for part in strata]) == pytest.approx(mean["value"])
    else:  # whose strata would be weighed otherwise
        assert "items" not in mean
        assert mean["stderr"] == pytest.approx(np.hypot(group["stderr"], piqa["stderr"]) / 2)
