"""The page stands alone; the figure is an SVG; the verbs write both."""

import base64
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest

from fusegpt.cli import fusegpt_command, run
from tests.reports.conftest import EXPERIMENT, make_results, write_checkpoint


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """One folder and one page for all tests here."""
    return make_results(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def table(results):
    output = results / "tables/hand.csv"
    arguments = ["table", "--experiment", json.dumps(EXPERIMENT)]
    assert (
        run(fusegpt_command, [*arguments, "--results", str(results), "--output", str(output)]) == 0
    )
    return output


@pytest.fixture(scope="module")
def figure(table, results):
    output = results / "figures/hand.svg"
    assert run(fusegpt_command, ["figure", "--table", str(table), "--output", str(output)]) == 0
    return output


@pytest.fixture(scope="module")
def page(table, figure, results):
    output = results / "report.html"
    arguments = ["report", "--table", str(table), "--figure", str(figure)]
    assert (
        run(fusegpt_command, [*arguments, "--results", str(results), "--output", str(output)]) == 0
    )
    return output.read_text()


def specifications(page: str) -> dict:
    return json.loads(re.search(r"^const charts = (\{.*\});$", page, re.MULTILINE).group(1))


def test_the_figure_is_an_svg_with_a_line_per_recipe(figure):
    tree = ET.parse(figure)
    assert tree.getroot().tag.endswith("svg")
    text = figure.read_text()
    for word in ("macro_influence", "fusegpt", "docs perplexity", "dense"):
        assert word in text


def test_the_page_loads_nothing_from_elsewhere(page):
    class Links(HTMLParser):
        found: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag, attrs):
            self.found += [value for name, value in attrs if name in ("src", "href") and value]

    links = Links()
    links.feed(page)
    assert links.found
    assert all(link.startswith(("data:", "#")) for link in links.found), links.found


def test_the_page_has_the_table_and_its_csv(page, table):
    for word in ("fusegpt", "8/12", "41.60", "docs perplexity", "length 512"):
        assert word in page
    csv = re.search(r"data:text/csv;base64,([^\"]+)", page).group(1)
    assert base64.b64decode(csv) == table.read_bytes()


def test_the_best_value_at_each_sparsity_is_marked(page):
    assert re.findall(r'class=" best"[^>]*>([\d.]+)<', page) == ["30.80", "41.60"]


def test_every_chart_has_a_place_and_data(page):
    charts = specifications(page)
    # Curve, frontier, time, memory, stack; importance of 3 runs; fusions and losses of 2.
    assert len(charts) == 5 + 3 + 2 + 2
    for name, chart in charts.items():
        assert f'id="{name}"' in page
        assert chart["width"] == "container"
        assert any(chart["datasets"].values())


def test_names_from_files_cannot_end_the_script(page):
    script = page[page.index("const charts") : page.rindex("</script>")]
    assert "</script" not in script


def test_a_count_of_figures_other_than_of_tables_is_refused(table, figure, results, capsys):
    arguments = ["report", "--table", str(table), "--figure", str(figure), "--figure", str(figure)]
    assert run(fusegpt_command, [*arguments, "--output", str(results / "r.html")]) == 2
    assert "once per --table" in capsys.readouterr().err


def test_show_prints_the_table_and_the_places(table, page, results, capsys):
    write_checkpoint(results / "checkpoints/tiny/fusegpt-00000003/step-004/fusegpt.json")
    capsys.readouterr()
    assert run(fusegpt_command, ["table", "--show", str(table)]) == 0
    out = capsys.readouterr().out
    assert "macro_influence_finetune" in out and "41.60" in out
    assert str(results / "report.html") in out
    assert str(results / "checkpoints/tiny/fusegpt-00000003/{step-004}") in out


def test_show_and_output_together_are_refused(table, capsys):
    assert run(fusegpt_command, ["table", "--show", str(table), "--output", "x.csv"]) == 2
    assert "either --show" in capsys.readouterr().err


def test_reports_import_no_torch():
    code = (
        "import sys, fusegpt.reports.page, fusegpt.reports.card, fusegpt.cli.table,"
        " fusegpt.cli.report, fusegpt.cli.figure;"
        "sys.exit(bool({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
