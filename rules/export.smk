"""Models as other programs run them, and what is measured on those."""


rule export:
    """A checkpoint, or the dense model, as a file for another program; export.json is last."""
    input:
        model=ask.exported_model,
    output:
        record=at.export,
    log:
        "logs/export/{model}/{recipe}/{place}/{export}.log",
    benchmark:
        "benchmarks/runs/export/{model}/{recipe}/{place}/{export}.tsv"
    wildcard_constraints:
        place=r"step-\d{3}",
        export=r"(?!gptq4-).+",
    conda:
        "../environment.yml"
    threads: 2
    params:
        trust=say.trust,
        model=model_directory,
        to=say.export,
        directory=directory_of,
        version=STAGE_VERSION["export"],
    shell:
        "fusegpt {params.trust:q} export {params.model:q} --to {params.to:q}"
        " --output {params.directory:q} >{log:q} 2>&1"


rule export_gptq:
    """The same in 4 bits that GPTQ rounds by windows of text, in an environment of its own."""
    input:
        model=ask.exported_model,
        windows=ask.windows_of_export,
    output:
        record=at.export,
    log:
        "logs/export/{model}/{recipe}/{place}/{export}.log",
    benchmark:
        "benchmarks/runs/export/{model}/{recipe}/{place}/{export}.tsv"
    wildcard_constraints:
        place=r"step-\d{3}",
        export=r"gptq4-.+",
    conda:
        "../environment.yml"
    threads: 2
    params:
        trust=say.trust,
        model=model_directory,
        to=say.export,
        directory=directory_of,
        version=STAGE_VERSION["export"],
    shell:
        "fusegpt {params.trust:q} export {params.model:q} --to {params.to:q}"
        " --calibration {input.windows:q} --output {params.directory:q} >{log:q} 2>&1"


rule measure_export:
    """One evaluation of one export."""
    input:
        model=at.export,
        origin=ask.exported_origin,
        data=ask.data_of_evaluation,
    output:
        at.export_evaluation,
    log:
        "logs/evaluate/{model}/{recipe}/{place}/{export}/{evaluation}.log",
    benchmark:
        "benchmarks/runs/evaluate/{model}/{recipe}/{place}/{export}/{evaluation}.tsv"
    wildcard_constraints:
        place=r"step-\d{3}",
    conda:
        "../environment.yml"
    threads: threads_of("evaluate", 2)
    resources:
        **resources_of("evaluate", gpu=1, device="cpu"),
    params:
        trust=say.trust,
        model=model_directory,
        flags=say.evaluations,
        version=STAGE_VERSION["evaluate"],
    shell:
        "fusegpt {params.trust:q} evaluate --model {params.model:q} {params.flags:q}"
        " --device {resources.device:q} >{log:q} 2>&1"
