"""A small image-text model from a fetched language model; sources that begin with llava:."""


def language_model(wildcards):
    """The last file of the model that it is built from."""
    return paths.model(PLAN.models[wildcards.model].source.removeprefix("llava:"))


def training_flags(wildcards):
    """``--steps N`` and the like, from the entry's config."""
    settings = PLAN.models[wildcards.model].config
    return [
        part
        for name, value in settings.items()
        for part in (f"--{name.replace('_', '-')}", value)
    ]


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
        model=one_of(
            name
            for name, model in PLAN.models.items()
            if model.source.startswith("llava:")
        ),
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
