"""What models, dense and pruned, are measured by."""


rule evaluate:
    """One evaluation of one model; its settings are parameters, so only its own change reruns it."""
    input:
        model=evaluated_model,
        data=evaluation_files,
        dense=dense_model,
    output:
        result="results/evaluations/{model}/{recipe}/step-{k}/{evaluation}.json",
    log:
        "logs/evaluate/{model}/{recipe}/step-{k}/{evaluation}.log",
    benchmark:
        "benchmarks/runs/evaluate/{model}/{recipe}/step-{k}/{evaluation}.tsv"
    conda:
        "../environment.yml"
    threads: 2
    resources:
        gpu=1,
        device="cpu",
    params:
        trust=trust_flag,
        model=model_directory,
        flags=evaluation_flags,
        dense=dense_flag,
        version=STAGE_VERSION["evaluate"],
    shell:
        "fusegpt {params.trust:q} evaluate --model {params.model:q} {params.flags:q}"
        " {params.dense:q} --store results/.evalcache"
        " --device {resources.device:q} --output {output.result:q} >{log:q} 2>&1"
