"""Tables, figures and the page: they read result files and never load a model."""


rule table:
    """An experiment's results, one row per model, recipe, seed, sparsity and metric."""
    input:
        evaluations=ask.evaluations_of_experiment,
        exports=ask.exports_of_experiment,
    output:
        csv=report(
            at.table,
            category="tables",
            labels={"experiment": "{experiment}"},
        ),
        record=at.table_record,
    log:
        "logs/table/{experiment}.log",
    benchmark:
        "benchmarks/runs/table/{experiment}.tsv"
    conda:
        "../environment.yml"
    params:
        experiment=say.contents,
        version=STAGE_VERSION["table"],
    shell:
        "fusegpt table --experiment {params.experiment:q} --results results"
        " --output {output.csv:q} >{log:q} 2>&1"


rule figure:
    """An experiment's metrics over sparsity, or over what its recipes differ in."""
    input:
        csv=at.table,
        record=at.table_record,
    output:
        svg=report(
            at.figure,
            category="figures",
            labels={"experiment": "{experiment}"},
        ),
    log:
        "logs/figure/{experiment}.log",
    benchmark:
        "benchmarks/runs/figure/{experiment}.tsv"
    conda:
        "../environment.yml"
    params:
        version=STAGE_VERSION["figure"],
    shell:
        "fusegpt figure --table {input.csv:q} --output {output.svg:q} >{log:q} 2>&1"


rule report:
    """One page for all experiments: tables, figures, what was removed and how tuning went."""
    input:
        tables=every_table,
        figures=every_figure,
    output:
        page=report(at.report, category="the page"),
    log:
        "logs/report.log",
    benchmark:
        "benchmarks/runs/report.tsv"
    conda:
        "../environment.yml"
    params:
        tables=with_each("--table", "tables"),
        figures=with_each("--figure", "figures"),
        version=STAGE_VERSION["report"],
    shell:
        "fusegpt report {params.tables:q} {params.figures:q} --results results"
        " --output {output.page:q} >{log:q} 2>&1"
