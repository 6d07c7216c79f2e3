"""The workflow from elsewhere: as a module of another workflow, and from a clone left untouched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests import forked
from tests.workflow.conftest import ROOT, verbs

MODULE = """
configfile: "study.json"


module fusegpt:
    snakefile:
        {snakefile!r}
    config:
        config


use rule * from fusegpt as fusegpt_*


rule mine:
    input:
        rules.fusegpt_tables.input,
    output:
        "mine.txt",
    default_target: True
    shell:
        "cat {{input}} >{{output}}"
"""


def test_another_workflow_imports_the_rules_and_builds_on_a_table(project):
    del project.config["evaluations"]["short"]
    project.study.update(evaluations=["docs"], recipes=["dense", "macro_influence"])
    project.command()
    snakefile = project.directory / "Snakefile"
    snakefile.write_text(MODULE.format(snakefile=str(ROOT / "Snakefile")))

    done = forked.run(["--cores", "2"], project.directory, project.environment)

    assert done.returncode == 0, done.stderr[-3000:]
    assert (project.directory / "mine.txt").is_file()
    assert verbs(project.lines()) == {
        **{"fetch": 1, "sample": 1, "start": 1, "score": 1, "take": 1, "fuse": 1},
        **{"load": 2, "evaluate": 2, "table": 1},
    }


MADE = """
configfile: "study.json"


module fusegpt:
    snakefile:
        {snakefile!r}
    config:
        config


use rule * from fusegpt


rule mine:
    output:
        "results/models/{{model}}/source.json",
    wildcard_constraints:
        model="tiny",
    shell:
        "echo '{{{{}}}}' >{{output}}"
"""


@pytest.mark.slow
def test_a_rule_of_the_other_workflow_makes_a_model_without_a_source(project):
    project.config["models"]["tiny"]["source"] = "made:"
    project.study["recipes"] = ["dense"]

    missing = project.snakemake("-n")
    (project.directory / "Snakefile").write_text(MADE.format(snakefile=str(ROOT / "Snakefile")))
    project.environment["PYTHONPATH"] = str(ROOT)
    done = forked.run(["--cores", "2", "study"], project.directory, project.environment)

    said = missing.stdout + missing.stderr
    assert missing.returncode == 1 and "results/models/tiny/source.json" in said
    assert done.returncode == 0, done.stderr[-3000:]
    assert verbs(project.lines()) == {"load": 1, "evaluate": 2, "table": 1, "figure": 1}
    assert not any("fetch" in line or "mine" in line for line in project.started("study"))


def test_a_clone_that_cannot_be_written_works_with_results_elsewhere(project, tmp_path):
    clone = tmp_path / "a read-only clone"
    for part in ("rules", "config"):
        shutil.copytree(ROOT / part, clone / part)
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(ROOT / name, clone)
    for path in [clone, *clone.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = _contents(clone)
    project.root = clone
    results = tmp_path / "results elsewhere"
    project.config["models"]["tiny"]["source"] = f"dir:{project.directory / 'models/tiny'}"
    study = project.command()[-1]
    assert json.loads(Path(study).read_text())

    asked = project.command("tables", "--directory", str(results))
    done = forked.run(asked, clone, project.environment)

    for path in [clone, *clone.rglob("*")]:
        path.chmod(0o755)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (results / "results/tables/study.csv").is_file()
    assert _contents(clone) == before


def _contents(folder: Path) -> dict[str, bytes | None]:
    """Every file with its bytes; the cache of compiled Python does not count."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }
