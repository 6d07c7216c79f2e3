"""Pruned models that load without any code of this project."""


rule merge:
    """A step's model as a plain transformers directory; fusegpt.json is written last."""
    input:
        model=at.manifest,
        recipe=at.recipe,
        chain=ask.chain_to,
        finetune=ask.finish_windows,
    output:
        record=at.checkpoint,
    log:
        "logs/merge/{model}/{recipe}/step-{k}.log",
    benchmark:
        "benchmarks/runs/merge/{model}/{recipe}/step-{k}.tsv"
    wildcard_constraints:
        k=r"(?!000)\d{3}",
    conda:
        "../environment.yml"
    threads: 2
    resources:
        gpu=1,
        device="cpu",
    params:
        trust=say.trust,
        directory=directory_of,
        finetune=finetune_flag,
        version=STAGE_VERSION["merge"],
    shell:
        "fusegpt {params.trust:q} merge --model {input.model:q} --recipe {input.recipe:q}"
        " {params.finetune:q} --device {resources.device:q}"
        " --output {params.directory:q} >{log:q} 2>&1"


rule card:
    """The card of a merged or sliced model, with everything that was measured on it.

    The output is a copy: README.md itself is there as soon as the model is.
    """
    input:
        record=ask.published_model,
        evaluations=ask.evaluations_of_model,
    output:
        card=at.card,
    log:
        "logs/card/{model}/{recipe}/{place}.log",
    benchmark:
        "benchmarks/runs/card/{model}/{recipe}/{place}.tsv"
    wildcard_constraints:
        place=r"step-(?!000)\d{3}|sparsity-[^/]+",
    conda:
        "../environment.yml"
    params:
        evaluations=with_each("--evaluation", "evaluations"),
        version=STAGE_VERSION["card"],
    shell:
        "fusegpt card --checkpoint {input.record:q} {params.evaluations:q}"
        " --output {output.card:q} >{log:q} 2>&1"
