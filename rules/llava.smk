"""A small image-text model from a fetched language model; sources that begin with llava:."""


ruleorder: build_llava > fetch


rule build_llava:
    """A vision tower on generated pictures, joined to a language model and taught to answer."""
    input:
        model=language_model,
    output:
        source="results/models/{model}/source.json",
        train="results/models/{model}/questions-train.parquet",
        test="results/models/{model}/questions-test.parquet",
    log:
        "logs/build-llava/{model}.log",
    benchmark:
        "benchmarks/runs/build-llava/{model}.tsv"
    wildcard_constraints:
        model=one_of(BUILT),
    conda:
        "../environment.yml"
    threads: 1
    params:
        model=model_directory,
        directory=directory_of,
        flags=training_flags,
        version=STAGE_VERSION["build-llava"],
    shell:
        "fusegpt build-llava --model {params.model:q} {params.flags:q}"
        " --output {params.directory:q} >{log:q} 2>&1"
