"""Pruned models that load without any code of this project."""


rule merge:
    """A step's model as a plain transformers directory; fusegpt.json is written last."""
    input:
        model="results/runs/{model}/{recipe}/step-{k}/manifest.json",
        recipe="results/runs/{model}/{recipe}/recipe.json",
        chain=chain_of_checkpoint,
        finetune=finish_windows,
    output:
        record="results/checkpoints/{model}/{recipe}/step-{k}/fusegpt.json",
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
        trust=trust_flag,
        directory=directory_of,
        finetune=finetune_flag,
        version=STAGE_VERSION["merge"],
    shell:
        "fusegpt {params.trust:q} merge --model {input.model:q} --recipe {input.recipe:q}"
        " {params.finetune:q} --device {resources.device:q}"
        " --output {params.directory:q} >{log:q} 2>&1"


rule card:
    """A checkpoint's model card, with everything that was measured on it.

    The output is a copy: README.md itself is there as soon as the checkpoint is.
    """
    input:
        record="results/checkpoints/{model}/{recipe}/step-{k}/fusegpt.json",
        evaluations=evaluations_of_checkpoint,
    output:
        card="results/cards/{model}/{recipe}/step-{k}.md",
    log:
        "logs/card/{model}/{recipe}/step-{k}.log",
    benchmark:
        "benchmarks/runs/card/{model}/{recipe}/step-{k}.tsv"
    wildcard_constraints:
        k=r"(?!000)\d{3}",
    conda:
        "../environment.yml"
    params:
        evaluations=evaluation_files_flags,
        version=STAGE_VERSION["card"],
    shell:
        "fusegpt card --checkpoint {input.record:q} {params.evaluations:q}"
        " --output {output.card:q} >{log:q} 2>&1"
