"""docs/adding.md, done as it says in a copy of the project, on a tiny model."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_docs import FENCE, ROOT

BLOCKS = FENCE.findall((ROOT / "docs/adding.md").read_text())
PLACE = re.compile(r"# (?:(at the end of|in) )?(?:([A-Z]+) of )?(\S+)\n")
COMMANDS = [
    line for language, block in BLOCKS if language == "sh" for line in block.splitlines() if line
]
VERBS = """
import shlex, sys
from fusegpt.cli import fusegpt_command, run
for line in sys.stdin:
    words = shlex.split(line)[1:]
    if words[0] == "run":
        continue  # it becomes another process
    assert run(fusegpt_command, words) == 0, line
"""
SMALL = {"smollm2-135m": "tiny", "num_blocks: 30": "num_blocks: 6"}
"""What differs: the model."""


def small(text: str) -> str:
    for large, tiny in SMALL.items():
        text = text.replace(large, tiny)
    return text


def put(block: str, root: Path) -> None:
    """Write a block where its first line says."""
    place = PLACE.match(block)
    assert place, block[:60]
    how, table, path = place.groups()
    file, body = root / path, small(block[place.end() :])
    if how is None:
        assert not file.exists(), path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(body)
    elif how == "at the end of":
        file.write_text(f"{file.read_text().rstrip()}\n\n\n{body}")
    else:
        text = file.read_text()
        assert len(re.findall(rf"^{table}: .*= {{$", text, re.MULTILINE)) == 1, table
        file.write_text(re.sub(rf"(?m)^({table}: .*= {{)$", rf"\1\n{body.rstrip()}", text))


@pytest.fixture(scope="module")
def copy(tiny_llama_dir, tmp_path_factory):
    """The project with everything that the page adds."""
    root = tmp_path_factory.mktemp("adding")
    for name in ("fusegpt", "config", "rules"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "environment.yml", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(tiny_llama_dir, root / "tiny")
    for language, block in BLOCKS:
        if language != "sh":
            put(block, root)
    return root


def python(root: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
        **more,
    )


@pytest.mark.slow
def test_every_verb_of_the_page_runs_as_it_stands(copy):
    verbs = [small(line) for line in COMMANDS if line.startswith("fusegpt ")]
    assert {line.split()[1] for line in verbs} == {
        *("fetch", "sample", "recipes", "score", "prune", "slice", "evaluate", "run")
    }

    done = python(copy, "-c", VERBS, input="\n".join(verbs))

    assert done.returncode == 0, done.stderr[-3000:]
    scores = json.loads((copy / "work/scores.json").read_text())
    assert (scores["metric"], scores["settings"]) == ("usual_update", {"quantile": 0.9})
    louder = json.loads((copy / "work/louder/fusegpt.json").read_text())
    assert len(louder["removed"]) == 2 and 0 not in louder["removed"]
    (row,) = json.loads((copy / "work/top_one.json").read_text())["rows"]
    assert 0 <= row["value"] <= 1
    assert "quantile" in done.stdout and "Quantile over the tokens" in done.stdout


@pytest.mark.slow
def test_the_experiment_and_the_workflow_that_imports_ours_are_planned(copy):
    lines = [line for line in COMMANDS if line.startswith(("fusegpt run", "snakemake"))]
    assert len(lines) == 2
    for line in lines:
        program, *arguments = line.split()
        start = ["-m", "snakemake"] if program == "snakemake" else ["-c", MAIN]
        done = python(copy, *start, *arguments)
        assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-2000:]
        assert "usual_late-" in done.stdout and "sparsity-0.2" in done.stdout


MAIN = "from fusegpt.cli import main; main()"


@pytest.mark.slow
def test_the_tests_that_the_page_names_judge_what_was_added(copy):
    for name in ("tests", "docs", "examples", "benchmarks"):
        if not (copy / name).exists():
            (copy / name).symlink_to(ROOT / name)
    for kind in ("recipe", "experiment"):  # make settings
        done = python(copy, "-c", MAIN, "recipes", "--schema", kind)
        (copy / f"config/schema/{kind}.json").write_text(done.stdout)
    for line in (line for line in COMMANDS if line.startswith("pytest ")):
        arguments = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', line)[1:]]
        done = python(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)
        assert done.returncode == 0, line + done.stdout[-3000:] + done.stderr[-1000:]
        assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 1, line
