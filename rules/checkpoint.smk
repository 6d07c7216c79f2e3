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
        recipe=finished(False),
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


rule answers:
    """What a teacher says of windows, once for all that learn from it; answers.json is last."""
    input:
        model=ask.teacher,
        windows=ask.windows_answered,
    output:
        record=at.answers,
    log:
        "logs/answers/{model}/{answers}.log",
    benchmark:
        "benchmarks/runs/answers/{model}/{answers}.tsv"
    conda:
        "../environment.yml"
    threads: 2
    resources:
        gpu=1,
        device="cpu",
    params:
        trust=say.trust_teacher,
        model=model_directory,
        flags=say.answers,
        directory=directory_of,
        version=STAGE_VERSION["answers"],
    shell:
        "fusegpt {params.trust:q} answers --model {params.model:q} --windows {input.windows:q}"
        " {params.flags:q} --device {resources.device:q}"
        " --output {params.directory:q} >{log:q} 2>&1"


rule finish:
    """A step's model after training as a whole, as a directory that transformers loads."""
    input:
        model=ask.finished_step,
        chain=ask.chain_to,
        windows=ask.windows_of_finish,
        answers=ask.answers,
    output:
        record=at.checkpoint,
    log:
        "logs/finish/{model}/{recipe}/step-{k}.log",
    benchmark:
        "benchmarks/runs/finish/{model}/{recipe}/step-{k}.tsv"
    wildcard_constraints:
        recipe=finished(True),
        k=r"(?!000)\d{3}",
    conda:
        "../environment.yml"
    threads: 2
    resources:
        gpu=1,
        device="cpu",
    params:
        trust=say.trust,
        recipe=say.recipe,
        answers=answers_flag,
        directory=directory_of,
        version=STAGE_VERSION["finish"],
    shell:
        "fusegpt {params.trust:q} finish --model {input.model:q}"
        " --recipe-settings {params.recipe:q} --windows {input.windows:q} {params.answers:q}"
        " --device {resources.device:q} --output {params.directory:q} >{log:q} 2>&1"


rule card:
    """The card of a merged or sliced model, with everything that was measured on it.

    The output is a copy: README.md itself is there as soon as the model is.
    """
    input:
        record=ask.published_model,
        evaluations=ask.evaluations_of_model,
        dense=ask.dense_evaluations,
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
        dense=with_each("--dense", "dense"),
        version=STAGE_VERSION["card"],
    shell:
        "fusegpt card --checkpoint {input.record:q} {params.evaluations:q} {params.dense:q}"
        " --output {output.card:q} >{log:q} 2>&1"
