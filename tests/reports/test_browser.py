"""The page in a real browser: no errors, marks in every chart, tables that sort and filter."""

import csv
import json
import re
import time
from contextlib import contextmanager

import pytest

from fusegpt.cli import fusegpt_command, run
from tests.reports.browser import chromium
from tests.reports.conftest import make_results

MILLISECONDS = 120_000
"""The longest wait for anything, on a loaded machine."""
SIZES = {"desktop": (1400, 900), "phone": (390, 844)}
COUNT = """[...document.querySelectorAll('.vega')].map(
  place => place.querySelectorAll('.role-mark path[d], .role-mark line').length)"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = make_results(tmp_path_factory.mktemp("page"))
    experiment = json.loads((folder / "experiment.json").read_text())
    table, page = folder / "tables/hand.csv", folder / "report.html"
    common = ["--results", str(folder), "--output"]
    made = ["table", "--experiment", json.dumps(experiment), *common, str(table)]
    assert run(fusegpt_command, made) == 0
    published = folder / "published.csv"
    made = ["report", "--table", str(table), "--published", str(published), *common, str(page)]
    assert run(fusegpt_command, made) == 0
    return page.as_uri()


@contextmanager
def opening(browser, address, size):
    """The page at one size, and everything the browser complained of or asked for."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height}, accept_downloads=True
    )
    context.set_default_timeout(MILLISECONDS)
    page, heard = context.new_page(), []
    page.on("console", lambda message: heard.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: heard.append(f"error: {error}"))
    page.on("request", lambda asked: heard.append(asked.url) if "://" in asked.url[:8] else None)
    page.goto(address)
    page.wait_for_selector("html[data-ready]")
    try:
        yield page, heard
    finally:
        context.close()


@pytest.fixture(scope="module", params=SIZES)
def seen(request, browser, address):
    """A page for tests that only look."""
    with opening(browser, address, request.param) as found:
        yield found


@pytest.fixture(params=["desktop", pytest.param("phone", marks=pytest.mark.slow)])
def opened(request, browser, address):
    """A page of its own for a test that changes what it shows."""
    with opening(browser, address, request.param) as found:
        yield found


def column(page, place):
    """The texts of one column of the first table."""
    cells = page.locator("table.grid").first.locator(f"tbody tr td:nth-child({place})")
    return [text.strip() for text in cells.all_inner_texts()]


def settles(page, place, expected):
    """Wait until a column reads so; DataTables draws a moment after the key."""
    until = time.monotonic() + MILLISECONDS / 1000
    while column(page, place) != expected and time.monotonic() < until:
        page.wait_for_timeout(100)
    assert column(page, place) == expected


def test_it_opens_without_a_word_of_complaint_and_asks_for_nothing(seen, address):
    page, heard = seen
    assert [word for word in heard if word not in (address, f"{address}#")] == []
    assert page.title() == "fusegpt: hand"


def test_every_chart_has_marks_once_its_fold_is_open(opened):
    page, heard = opened
    page.evaluate("document.querySelectorAll('details').forEach(box => { box.open = true })")
    page.wait_for_function("document.querySelectorAll('.vega:empty').length === 0")
    counts = page.evaluate(COUNT)
    assert len(counts) == 12 and min(counts) >= 2, counts
    assert not [word for word in heard if word.startswith("error")]


@pytest.mark.slow
def test_a_click_in_a_legend_shows_that_recipe_alone(opened):
    page, _ = opened
    faint = """[...document.querySelectorAll('.vega')][0].querySelectorAll(
      '.mark-symbol.role-mark path[opacity="0.12"]').length"""
    assert page.evaluate(faint) == 0
    page.locator(".vega").first.locator(".role-legend-label text", has_text="fusegpt").click()
    page.wait_for_function(f"{faint} === 6")


def test_nothing_is_wider_than_the_screen(seen):
    page, _ = seen
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= page.viewport_size["width"]
    charts = page.evaluate(
        "[...document.querySelectorAll('.vega svg')].map(svg => svg.getBoundingClientRect().right)"
    )
    assert max(charts) <= page.viewport_size["width"]


def test_a_head_sorts_by_value_with_the_keyboard(opened):
    page, _ = opened
    head = page.locator("table.grid").first.locator("th .dt-column-order").nth(4)
    head.focus()
    page.keyboard.press("Enter")
    values = ["20.00", "30.80", "34.40", "41.60", "44.00", "48.80", "68.00"]
    settles(page, 5, values)
    page.keyboard.press("Enter")
    settles(page, 5, values[::-1])


def test_words_and_lists_filter_rows_and_the_csv_has_what_is_shown(opened, tmp_path):
    page, _ = opened
    words = page.locator("input[type=search]").first
    words.fill("finetune")
    settles(page, 1, ["macro_influence_finetune"] * 2)
    with page.expect_download() as download:
        page.locator("button.buttons-csv").first.click()
    assert download.value.suggested_filename == "hand-tiny.csv"
    download.value.save_as(tmp_path / "shown.csv")
    rows = list(csv.DictReader((tmp_path / "shown.csv").read_text().splitlines()))
    assert [row["docs perplexity"] for row in rows] == ["34.4", "48.8"]
    assert [float(row["sparsity"]) for row in rows] == [0.15, 0.3]
    words.fill("")
    page.locator("th .dtcc-button").first.click()
    page.locator(".dtcc-list-buttons button", has_text=re.compile("^fusegpt$")).click()
    settles(page, 1, ["fusegpt"] * 2)


def test_published_values_stand_beside_ours_with_a_mark_where_protocols_differ(seen):
    page, _ = seen
    text = page.locator("table[data-name=published]").inner_text()
    assert "≠ length 512, published 2048" in text
    assert "not measured here" in text
    assert "printed 41" in page.locator("ul.errata").inner_text()


@pytest.mark.slow
def test_dark_and_light_can_be_chosen_and_paper_is_light(opened):
    page, _ = opened
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    page.locator("#theme").click()
    dark = page.evaluate(colour)
    assert light == "rgb(255, 255, 255)" and dark != light
    axis = "getComputedStyle(document.querySelector('.vega .role-axis-title text')).fill"
    assert page.evaluate(axis) == page.evaluate("getComputedStyle(document.body).color")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.evaluate(colour) == light
    assert page.evaluate("document.querySelectorAll('.vega:empty').length") == 0
    assert not page.locator("#theme").is_visible()
