"""The site of the documents: every link leads to a page of it, and none of it lies elsewhere."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location("site_build", ROOT / "docs/site/build.py")
site = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(site)


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("docs/workflow.md#the-report", "workflow.md#the-report"),
        ("CHANGELOG.md", "changes.md"),
        ("docs/results/fusion_small.svg", "results/fusion_small.svg"),
        ("docs/results/fusion.md#what-fusion-adds", "results/fusion.md#what-fusion-adds"),
        ("fusegpt/recovery/fusion.py", "reference/recovery.md#fusegpt.recovery.fusion"),
        ("fusegpt/importance/__init__.py", "reference/importance.md#fusegpt.importance"),
        ("fusegpt/artifacts.py", "reference/fusegpt.md#fusegpt.artifacts"),
        ("fusegpt/slicegpt", "reference/slicegpt.md#fusegpt.slicegpt"),
        ("config/demo.yaml", "files/config/demo.yaml.md"),
        ("https://example.org/x.py", "https://example.org/x.py"),
    ],
)
def test_a_link_leads_to_its_page(link, expected):
    assert site.rewritten(f"[x]({link})", "README.md", "index.md", {}) == f"[x]({expected})"


def test_links_are_relative_to_the_page_and_code_is_left_alone():
    text = "[x](../LICENSE)\n\n```text\n[x](../LICENSE)\n```\n"
    shown = {}

    said = site.rewritten(text, "docs/method.md", "method.md", shown)

    assert said == "[x](files/LICENSE.md)\n\n```text\n[x](../LICENSE)\n```\n"
    assert shown == {"LICENSE": "files/LICENSE.md"}


def test_all_is_staged_and_the_navigation_names_what_is_there(tmp_path):
    site.stage(tmp_path)

    staged = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.md")}
    template = (site.HERE / "zensical.toml").read_text().replace("REFERENCE", "[]")
    nav = tomllib.loads(template)["project"]["nav"]
    named = [value for entry in nav for value in entry.values()]
    pages = {page for value in named for page in ([value] if isinstance(value, str) else value)}
    assert pages == {page for page in staged if not page.startswith(("files/", "reference/"))}
    assert (
        "::: fusegpt.importance.macro_influence\n"
        in (tmp_path / "reference/importance.md").read_text()
    )
    assert "smollm2-135m:" in (tmp_path / "files/config/config.yaml.md").read_text()


def test_a_page_that_loads_something_from_elsewhere_is_refused(tmp_path):
    (tmp_path / "assets/javascripts").mkdir(parents=True)
    page = tmp_path / "reference/x.html"
    page.parent.mkdir()
    page.write_text(f'<script src="{site.SHIM}"></script><a href="https://example.org/">x</a>')
    site.finish(tmp_path)
    assert '<script src="../assets/javascripts/iframe-worker.js">' in page.read_text()

    page.write_text('<link rel=stylesheet href="https://example.org/x.css">')
    with pytest.raises(SystemExit, match=r"must load nothing from elsewhere, got https://example"):
        site.finish(tmp_path)


def test_the_documents_draw_with_nothing_that_has_to_be_loaded():
    for source in site.PAGES:
        assert "```mermaid" not in (ROOT / source).read_text(), source
