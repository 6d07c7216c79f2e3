"""Every command in the documents exists with its options, and every link leads somewhere."""

from __future__ import annotations

import ast
import copy
import re
import shlex
from pathlib import Path

import click
import pytest

from fusegpt.cli import fusegpt_command
from fusegpt.importance import METRICS
from fusegpt.recovery import FINISHES, RECOVERIES
from fusegpt.slicegpt import WIDTHS

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
]
RUN_ELSEWHERE = {"adding.md"}
"""Documents that a test of their own follows from end to end: tests/test_adding.py."""
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
TARGETS = {"all", "scores", "checkpoints", "tables"}


def commands() -> list[tuple[str, list[str]]]:
    """Every shell line of the documents, as words, without comments."""
    found = []
    for document in DOCUMENTS:
        if document.name in RUN_ELSEWHERE:
            continue
        for language, block in FENCE.findall(document.read_text()):
            if language in ("sh", "bash", "console"):
                lines = block.replace("\\\n", " ").splitlines()
                words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]
                found += [(document.relative_to(ROOT).as_posix(), line) for line in words if line]
    return found


def test_there_are_commands_to_check():
    programs = {words[0] for _, words in commands()}
    assert {"make", "fusegpt", "snakemake"} <= programs


@pytest.mark.parametrize(
    ("document", "words"),
    [pytest.param(name, line, id=f"{name}: {' '.join(line[:2])}") for name, line in commands()],
)
def test_a_command_of_the_documents_parses(document, words):
    program, *arguments = words
    if program == "fusegpt":
        parses(arguments)
    elif program == "make":
        makefile = (ROOT / "Makefile").read_text()
        for target in [word for word in arguments if "=" not in word]:
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    elif program == "snakemake":
        for word in arguments:
            if "/" in word and not word.startswith("results/"):
                assert (ROOT / word).exists(), word


def parses(arguments: list[str]) -> None:
    """Let click parse the line; files it names need not exist here."""
    verb = next(word for word in arguments if not word.startswith("-"))
    context = click.Context(fusegpt_command)
    command = copy.deepcopy(fusegpt_command.get_command(context, verb))
    assert command is not None
    for parameter in command.params:
        if isinstance(parameter.type, click.Path):
            parameter.type = click.STRING
    command.make_context(verb, arguments[arguments.index(verb) + 1 :])


def test_every_verb_named_in_the_text_exists():
    known = set(fusegpt_command.list_commands(click.Context(fusegpt_command)))
    for document in DOCUMENTS:
        named = set(re.findall(r"`fusegpt ([a-z]+)[ `]", document.read_text()))
        assert named <= known, document.name


def test_every_relative_link_leads_to_a_file():
    missing = [
        f"{document.name}: {link}"
        for document in DOCUMENTS
        for link in LINK.findall(document.read_text())
        if "://" not in link and not (document.parent / link.partition("#")[0]).exists()
    ]
    assert missing == []


def test_python_examples_import_what_exists():
    for document in DOCUMENTS:
        for language, block in FENCE.findall(document.read_text()):
            if language != "python" or document.name in RUN_ELSEWHERE:
                continue
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom) and node.module.startswith("fusegpt"):
                    module = __import__(node.module, fromlist=["_"])
                    assert all(hasattr(module, alias.name) for alias in node.names), node.module


def test_the_decisions_are_numbered_without_gaps_and_cited_ones_exist():
    numbers = re.findall(r"^## D(\d+)\.", (ROOT / "docs/decisions.md").read_text(), re.MULTILINE)
    assert [int(number) for number in numbers] == list(range(1, len(numbers) + 1))
    for file in (ROOT / "fusegpt").rglob("*.py"):
        cited = re.findall(
            r"\bD(\d+)\b", " ".join(re.findall(r"\(decisions?[^)]*\)", file.read_text()))
        )
        assert set(cited) <= set(numbers), file


def test_rules_and_targets_of_the_workflow_document_exist():
    rules = " ".join(file.read_text() for file in (ROOT / "rules").glob("*.smk"))
    snakefile = (ROOT / "Snakefile").read_text()
    assert " evaluate --model" in rules
    for name in ("fetch", "sample", "start", "score", "fuse", "merge", "card"):
        assert f"rule {name}:" in rules
    assert all(f"rule {target}:" in snakefile for target in TARGETS)


@pytest.mark.parametrize("table", [METRICS, RECOVERIES, FINISHES, WIDTHS])
def test_every_published_method_is_named_with_its_paper_its_file_and_its_settings(table):
    rows = [line for line in (ROOT / "docs/method.md").read_text().splitlines() if "](" in line]
    for name, method in table.items():
        file = method.target.partition(":")[0].replace(".", "/")
        for paper in re.findall(r"arXiv (\d{4}\.\d{5})", method.schema.paper):
            found = [row for row in rows if f"/abs/{paper})" in row and f"../{file}.py)" in row]
            assert any(f"(settings.md#{name}" in row for row in found), (name, paper)


def test_every_recipe_named_in_the_table_of_methods_exists():
    _, _, after = (ROOT / "docs/method.md").read_text().partition("| method | paper | recipes |")
    rows = [line.split("|")[3] for line in after.splitlines()[2:] if line.startswith("|")]
    names = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert len(names) > 40
    assert not [name for name in names if not (ROOT / f"config/recipes/{name}.yaml").is_file()]
