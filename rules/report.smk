"""Tables, figures and the page: they read result files and never load a model."""


rule table:
    """An experiment's results, one row per model, recipe, seed, sparsity and metric."""
    input:
        evaluations=evaluations_of_experiment,
    output:
        csv=report(
            "results/tables/{experiment}.csv",
            category="tables",
            labels={"experiment": "{experiment}"},
        ),
        record="results/tables/{experiment}.json",
    log:
        "logs/table/{experiment}.log",
    benchmark:
        "benchmarks/runs/table/{experiment}.tsv"
    conda:
        "../environment.yml"
    params:
        experiment=experiment_description,
        version=STAGE_VERSION["table"],
    shell:
        "fusegpt table --experiment {params.experiment:q} --results results"
        " --output {output.csv:q} >{log:q} 2>&1"


rule figure:
    """An experiment's metrics over sparsity, or over what its recipes differ in."""
    input:
        csv="results/tables/{experiment}.csv",
        record="results/tables/{experiment}.json",
    output:
        svg=report(
            "results/figures/{experiment}.svg",
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
        page=report("results/report.html", category="the page"),
    log:
        "logs/report.log",
    benchmark:
        "benchmarks/runs/report.tsv"
    conda:
        "../environment.yml"
    params:
        tables=table_flags,
        figures=figure_flags,
        version=STAGE_VERSION["report"],
    shell:
        "fusegpt report {params.tables:q} {params.figures:q} --results results"
        " --output {output.page:q} >{log:q} 2>&1"
