"""What models, dense, pruned and sliced, are measured by: one job for all that can share a model.

There is a rule for each set of evaluations that the same models are measured by; a profile's
settings for ``evaluate`` hold for all of them.
"""

for SET in TOGETHER:

    rule:
        name:
            like("evaluate", f"evaluate_{SET.label}")
        input:
            model=evaluated_model,
            data=evaluation_files(SET),
            dense=dense_model_beside(SET),
        output:
            [
                f"results/evaluations/{{model}}/{{recipe}}/{{place}}/{name}.json"
                for name in SET.evaluations
            ],
        log:
            f"logs/evaluate/{{model}}/{{recipe}}/{{place}}/{SET.label}.log",
        benchmark:
            f"benchmarks/runs/evaluate/{{model}}/{{recipe}}/{{place}}/{SET.label}.tsv"
        wildcard_constraints:
            model=SET.models,
            place=r"step-\d{3}|sparsity-[^/]+",
        conda:
            "../environment.yml"
        threads: 2
        resources:
            gpu=1,
            device="cpu",
        params:
            *evaluation_settings(SET),
            trust=trust_flag,
            model=model_directory,
            flags=evaluation_flags,
            dense=dense_flag,
            version=STAGE_VERSION["evaluate"],
        shell:
            "fusegpt {params.trust:q} evaluate --model {params.model:q} {params.flags:q}"
            " {params.dense:q} --store results/.evalcache"
            " --device {resources.device:q} >{log:q} 2>&1"
