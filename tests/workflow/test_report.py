"""Snakemake's own report, the workflow's view of the results."""


def test_snakemakes_report_holds_tables_figures_and_the_page(finished):
    ran = finished.snakemake("--report", "results/workflow.html")
    assert ran.returncode == 0, ran.stderr
    for name in ("study.csv", "study.svg", "report.html"):
        assert f"Adding {name}" in ran.stderr
    assert "<html" in (finished.directory / "results/workflow.html").read_text()
