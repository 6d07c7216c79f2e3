"""What models, dense, pruned and sliced, are measured by: one job for all that can share a model.

There is a rule for each set of evaluations that the same models are measured by; a profile's
settings for ``evaluate`` hold for all of them.
"""

for SET in TOGETHER:

    rule:
        name:
            f"evaluate_{SET.label}"
        input:
            model=ask.evaluated_model,
            data=ask.evaluation_data(SET),
            dense=ask.dense_model_beside(SET),
        output:
            [layout.evaluation.partly(evaluation=name) for name in SET.evaluations],
        log:
            f"logs/evaluate/{{model}}/{{recipe}}/{{place}}/{SET.label}.log",
        benchmark:
            f"benchmarks/runs/evaluate/{{model}}/{{recipe}}/{{place}}/{SET.label}.tsv"
        wildcard_constraints:
            model=SET.models,
            place=r"step-\d{3}|sparsity-[^/]+",
        conda:
            "../environment.yml"
        threads: threads_of("evaluate", 2)
        resources:
            **resources_of("evaluate", gpu=1, device="cpu"),
        params:
            *say.settings_of_set(SET),
            trust=say.trust,
            model=model_directory,
            flags=say.evaluations,
            dense=dense_flag,
            version=STAGE_VERSION["evaluate"],
        shell:
            "fusegpt {params.trust:q} evaluate --model {params.model:q} {params.flags:q}"
            " {params.dense:q} --store results/.evalcache"
            " --device {resources.device:q} >{log:q} 2>&1"

    if SET.decides:
        as_checkpoint(f"evaluate_{SET.label}")
