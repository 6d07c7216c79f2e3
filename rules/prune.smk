"""Algorithm 1, one artifact at a time: step k needs step k-1, and a sparsity is a step's name.

Only a contiguous selection is no chain: its step k removes k blocks of the dense model at once.
"""


rule start:
    """Step 000, the dense model, and the recipe with every setting (Algorithm 1, line 1)."""
    input:
        model=at.source,
    output:
        manifest=layout.manifest.partly(k="000"),
        recipe=at.recipe,
    log:
        "logs/start/{model}/{recipe}.log",
    benchmark:
        "benchmarks/runs/start/{model}/{recipe}.tsv"
    conda:
        "../environment.yml"
    params:
        settings=say.recipe,
        num_blocks=say.num_blocks,
        version=STAGE_VERSION["start"],
    shell:
        "fusegpt start --model {input.model:q} --recipe-settings {params.settings:q}"
        " --num-blocks {params.num_blocks:q}"
        " --output {output.manifest:q} --recipe-output {output.recipe:q} >{log:q} 2>&1"


rule score_dense:
    """Importance of every unit of the dense model (Eq. 3), once for all that score it alike."""
    input:
        model=at.source,
        calibration=ask.dense_windows,
        parts=ask.parts_of_dense_scores,
    output:
        scores=at.dense_scores,
    log:
        "logs/score_dense/{model}/{scores}.log",
    benchmark:
        "benchmarks/runs/score_dense/{model}/{scores}.tsv"
    wildcard_constraints:
        scores=one_of(ask.dense_scores),
    conda:
        "../environment.yml"
    threads: threads_of("score", 2)
    resources:
        **resources_of("score", gpu=1, device="cpu"),
    params:
        trust=say.trust,
        model=dense_model_flags,
        recipe=say.dense_recipe,
        blocks=say.dense_count,
        version=STAGE_VERSION["score"],
    shell:
        "fusegpt {params.trust:q} score --model {params.model:q} --recipe-settings {params.recipe:q}"
        " --calibration {input.calibration:q} --count {params.blocks:q}"
        " --device {resources.device:q} --output {output.scores:q} >{log:q} 2>&1"


rule take_scores:
    """What a step that starts from the dense model takes from its scores: all of it."""
    input:
        model=ask.previous_manifest,
        recipe=at.recipe,
        scores=ask.shared_scores,
    output:
        scores=at.scores,
    log:
        "logs/take_scores/{model}/{recipe}/step-{k}.log",
    benchmark:
        "benchmarks/runs/take_scores/{model}/{recipe}/step-{k}.tsv"
    wildcard_constraints:
        recipe=f"(?:{chains(contiguous=False)})(?=/step-001/)|{chains(contiguous=True)}",
        k=r"(?!000)\d{3}",
    conda:
        "../environment.yml"
    params:
        version=STAGE_VERSION["score"],
    shell:
        "fusegpt score --model {input.model:q} --recipe {input.recipe:q}"
        " --dense-scores {input.scores:q} --output {output.scores:q} >{log:q} 2>&1"


rule score:
    """Importance of every unit still present, before step k > 1 (Eq. 3)."""
    input:
        model=ask.previous_manifest,
        recipe=at.recipe,
        chain=ask.chain_before,
        calibration=ask.calibration_windows,
        first=ask.first_scores,
        parts=ask.parts_of_scores,
    output:
        scores=at.scores,
    log:
        "logs/score/{model}/{recipe}/step-{k}.log",
    benchmark:
        "benchmarks/runs/score/{model}/{recipe}/step-{k}.tsv"
    wildcard_constraints:
        recipe=chains(contiguous=False),
        k=r"(?!000|001)\d{3}",
    conda:
        "../environment.yml"
    threads: 2
    resources:
        gpu=1,
        device="cpu",
    params:
        trust=say.trust,
        selection=selection_flags,
        version=STAGE_VERSION["score"],
    shell:
        "fusegpt {params.trust:q} score --model {input.model:q} --recipe {input.recipe:q}"
        " --calibration {input.calibration:q} {params.selection:q} --device {resources.device:q}"
        " --output {output.scores:q} >{log:q} 2>&1"


rule score_dense_part:
    """What one of several jobs adds to the scores of the dense model: --set-scatter score=4."""
    input:
        model=at.source,
        calibration=ask.dense_windows,
    output:
        part=temp(at.dense_scores_part),
    log:
        "logs/score_dense_part/{model}/{scores}/{shard}.log",
    benchmark:
        "benchmarks/runs/score_dense_part/{model}/{scores}/{shard}.tsv"
    wildcard_constraints:
        scores=one_of(ask.dense_scores),
    conda:
        "../environment.yml"
    threads: threads_of("score", 2)
    resources:
        **resources_of("score", gpu=1, device="cpu"),
    params:
        trust=say.trust,
        model=model_directory,
        recipe=say.dense_recipe,
        blocks=say.dense_count,
        version=STAGE_VERSION["score"],
    shell:
        "fusegpt {params.trust:q} score --model {params.model:q} --recipe-settings {params.recipe:q}"
        " --calibration {input.calibration:q} --count {params.blocks:q} --shard {wildcards.shard:q}"
        " --device {resources.device:q} --output {output.part:q} >{log:q} 2>&1"


rule score_part:
    """What one of several jobs adds to the scores before step k > 1."""
    input:
        model=ask.previous_manifest,
        recipe=at.recipe,
        chain=ask.chain_before,
        calibration=ask.calibration_windows,
    output:
        part=temp(at.scores_part),
    log:
        "logs/score_part/{model}/{recipe}/step-{k}/{shard}.log",
    benchmark:
        "benchmarks/runs/score_part/{model}/{recipe}/step-{k}/{shard}.tsv"
    wildcard_constraints:
        recipe=chains(contiguous=False),
        k=r"(?!000|001)\d{3}",
    conda:
        "../environment.yml"
    threads: threads_of("score", 2)
    resources:
        **resources_of("score", gpu=1, device="cpu"),
    params:
        trust=say.trust,
        version=STAGE_VERSION["score"],
    shell:
        "fusegpt {params.trust:q} score --model {input.model:q} --recipe {input.recipe:q}"
        " --calibration {input.calibration:q} --shard {wildcards.shard:q}"
        " --device {resources.device:q} --output {output.part:q} >{log:q} 2>&1"


rule fuse:
    """Step k: the least important unit goes, its neighbours take over what it did (Eq. 4-10)."""
    input:
        model=ask.previous_manifest,
        recipe=at.recipe,
        chain=ask.chain_before,
        scores=at.scores,
        finetune=ask.finetune_windows,
    output:
        manifest=at.manifest,
        delta=at.delta,
        training=at.training,
    log:
        "logs/fuse/{model}/{recipe}/step-{k}.log",
    benchmark:
        "benchmarks/runs/fuse/{model}/{recipe}/step-{k}.tsv"
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
        version=STAGE_VERSION["fuse"],
    shell:
        "fusegpt {params.trust:q} fuse --model {input.model:q} --recipe {input.recipe:q}"
        " --scores {input.scores:q} {params.finetune:q} --device {resources.device:q}"
        " --output {params.directory:q} >{log:q} 2>&1"
