import json
from pathlib import Path

import pytest

GOLDEN = json.loads(Path(__file__).with_name("perplexity.json").read_text())

pytestmark = [pytest.mark.shared_data, pytest.mark.index, pytest.mark.slow]


@pytest.fixture(scope="module")
def smollm(tmp_path_factory):
    from fusegpt.data.sources import fetch, find_entry

    directory = tmp_path_factory.mktemp("golden") / "smollm2-135m"
    fetch(find_entry("smollm2-135m"), directory)
    return directory


@pytest.mark.parametrize(
    ("case", "dtype", "tolerance"),
    [("4x256", "float32", 1e-5), ("4x256", "bfloat16", 0.01)],
)
def test_dense_smollm_has_its_perplexity_on_wikitext(smollm, shared_data, case, dtype, tolerance):
    from fusegpt.evaluation.perplexity import perplexity, plan
    from fusegpt.evaluation.settings import Perplexity
    from fusegpt.models.checkpoints.load import load

    count, length = map(int, case.split("x"))
    corpora = {"wikitext2": {"splits": {"test": str(shared_data("wikitext2/raw_test.parquet"))}}}
    windows = plan(smollm, corpora, Perplexity(length=length, windows=count))
    assert windows.protocol["tokens"] == GOLDEN["tokens"]
    (row,) = perplexity(load(smollm, dtype=dtype), windows)
    assert row["value"] == pytest.approx(GOLDEN[case], rel=tolerance)


def test_the_published_development_value_is_met():
    assert GOLDEN["20x1024"] == pytest.approx(23.47, abs=0.005)
