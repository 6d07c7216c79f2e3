"""Models and windows of text."""


rule fetch:
    """A model as a plain transformers directory; source.json, written last, lists its files."""
    output:
        source=at.source,
    log:
        "logs/fetch/{model}.log",
    benchmark:
        "benchmarks/runs/fetch/{model}.tsv"
    wildcard_constraints:
        model=one_of(FETCHED),
    conda:
        "../environment.yml"
    params:
        source=say.source,
        settings=say.model_settings,
        directory=directory_of,
        version=STAGE_VERSION["fetch"],
    shell:
        "fusegpt fetch --model {params.source:q} --settings {params.settings:q}"
        " --output {params.directory:q} >{log:q} 2>&1"


rule sample:
    """Seeded windows of token ids, for calibration and fine-tuning."""
    input:
        model=at.source,
        corpus=ask.corpus_files,
    output:
        windows=at.windows,
    log:
        "logs/sample/{model}/{windows}.log",
    benchmark:
        "benchmarks/runs/sample/{model}/{windows}.tsv"
    conda:
        "../environment.yml"
    params:
        trust=say.trust,
        model=model_directory,
        flags=say.windows,
        version=STAGE_VERSION["sample"],
    shell:
        "fusegpt {params.trust:q} sample --model {params.model:q} {params.flags:q}"
        " --output {output.windows:q} >{log:q} 2>&1"


rule generate:
    """Texts that a dense model writes itself, for every recipe whose windows are cut from them."""
    input:
        model=at.source,
        corpus=ask.prompt_files,
    output:
        generated=at.generated,
    log:
        "logs/generate/{model}/{generated}.log",
    benchmark:
        "benchmarks/runs/generate/{model}/{generated}.tsv"
    wildcard_constraints:
        generated=one_of(PLAN.written),
    conda:
        "../environment.yml"
    threads: threads_of("score", 2)
    resources:
        **resources_of("score", gpu=1, device="cpu"),
    params:
        trust=say.trust,
        model=model_directory,
        flags=say.generated,
        version=STAGE_VERSION["generate"],
    shell:
        "fusegpt {params.trust:q} generate --model {params.model:q} {params.flags:q}"
        " --device {resources.device:q} --output {output.generated:q} >{log:q} 2>&1"
