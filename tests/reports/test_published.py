"""Published values: read strictly, compared only with the same thing, differences named."""

import pandas as pd
import pytest
import yaml

from fusegpt.config import builtin_config_dir
from fusegpt.errors import ArtifactError
from fusegpt.reports.collect import collect
from fusegpt.reports.published import COLUMNS, beside_ours, differences, read_published
from fusegpt.results.contents import parse_contents

HEAD = ",".join(COLUMNS)
LINE = ',Table I,FuseGPT,tiny,fusegpt,0.3,python_docs perplexity,40,"{""length"": 512}",,'


def written(tmp_path, *lines):
    file = tmp_path / "paper.csv"
    file.write_text("\n".join([HEAD, *lines]) + "\n")
    return file


def test_the_values_that_come_with_the_package_read_and_the_misprint_is_marked():
    papers = read_published(sorted((builtin_config_dir() / "published").glob("*.csv")))
    assert not papers.duplicated(["source", "table", "row", "model", "sparsity", "metric"]).any()
    dense = papers[(papers["model"] == "llama2-7b") & (papers["method"] == "dense")]
    wikitext = dense[dense["metric"] == "wikitext2 perplexity"].iloc[0]
    assert wikitext["value"] == 5.47 and "printed 5.27" in wikitext["erratum"]
    assert set(papers["source"]) >= {"fusegpt_v1"}
    known = yaml.safe_load((builtin_config_dir() / "config.yaml").read_text())["models"]
    assert set(papers["model"]) <= set(known)
    experiments = set(papers["experiment"]) - {""}
    files = {file.stem for file in (builtin_config_dir() / "experiments").glob("*.yaml")}
    assert experiments <= files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "column 'experiment' is missing"),
        (f"{HEAD}\n{LINE.replace(',40,', ',forty,')}\n", "line 2: value must be a number, got"),
        (f"{HEAD}\n{LINE.replace('{', '[')}\n", "line 2: protocol must be a JSON object"),
        ("", "cannot be read"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(tmp_path, text, message):
    file = tmp_path / "paper.csv"
    file.write_text(text)
    with pytest.raises(ArtifactError, match=message):
        read_published([file])


def test_ours_stands_beside_the_same_model_method_sparsity_and_metric(
    results, experiment, tmp_path
):
    frame = collect(parse_contents(experiment), results)
    other = LINE.replace(",tiny,", ",llama2-7b,")
    entries = beside_ours(read_published([written(tmp_path, LINE, other)]), frame)
    assert [entry["ours"] for entry in entries] == [pytest.approx(41.6), None]
    assert [entry["differences"] for entry in entries] == [[], None]


def test_a_protocol_differs_by_name_and_by_both_values():
    published = {"length": 2048, "join": "\n\n", "windows": "all", "bos": "stream"}
    ours = {"length": 1024, "join": "\n\n", "windows": 40, "tokens": 304978}
    assert differences(published, ours) == [
        "length 1024, published 2048",
        "windows 40, published all",
        "bos not recorded, published stream",
    ]


@pytest.mark.parametrize("windows", [148, None])
def test_all_windows_of_a_text_are_all_windows(windows):
    ours = {"length": 2048, "windows": windows, "tokens": 304978}
    assert differences({"windows": "all"}, ours) == []


def test_seeds_are_averaged(results, experiment, tmp_path):
    frame = collect(parse_contents(experiment), results)
    twin = frame.assign(seed=1, recipe_id=frame["recipe_id"] + "x", value=frame["value"] + 2)
    both = pd.concat([frame, twin], ignore_index=True)
    entries = beside_ours(read_published([written(tmp_path, LINE)]), both)
    assert entries[0]["ours"] == pytest.approx(42.6)


@pytest.mark.parametrize(
    ("named", "expected"), [("", [41.6, 43.6]), ("demo", [41.6]), ("other", [43.6])]
)
def test_a_name_that_two_experiments_give_to_different_settings_is_never_averaged(
    results, experiment, tmp_path, named, expected
):
    frame = collect(parse_contents(experiment), results).assign(experiment="demo")
    same = frame.assign(experiment="again")
    changed = frame["recipe_id"] + "x"
    other = frame.assign(experiment="other", recipe_id=changed, value=frame["value"] + 2)
    every = pd.concat([frame, same, other], ignore_index=True)
    entries = beside_ours(read_published([written(tmp_path, named + LINE)]), every)
    assert [entry["ours"] for entry in entries] == [pytest.approx(value) for value in expected]
    assert [entry["measured_by"] for entry in entries] == ([named] if named else ["demo", "other"])
