"""Algorithm 1, one artifact at a time: step k needs step k-1, and a sparsity is a step's name.

Only a contiguous selection is no chain: its step k removes k blocks of the dense model at once.
"""


rule start:
    """Step 000, the dense model, and the recipe with every setting (Algorithm 1, line 1)."""
    input:
        model="results/models/{model}/source.json",
    output:
        manifest="results/runs/{model}/{recipe}/step-000/manifest.json",
        recipe="results/runs/{model}/{recipe}/recipe.json",
    log:
        "logs/start/{model}/{recipe}.log",
    benchmark:
        "benchmarks/runs/start/{model}/{recipe}.tsv"
    conda:
        "../environment.yml"
    params:
        settings=recipe_settings,
        num_blocks=num_blocks,
        version=STAGE_VERSION["start"],
    shell:
        "fusegpt start --model {input.model:q} --recipe-settings {params.settings:q}"
        " --num-blocks {params.num_blocks:q}"
        " --output {output.manifest:q} --recipe-output {output.recipe:q} >{log:q} 2>&1"


rule score:
    """Importance of every unit still present, before step k (Eq. 3)."""
    input:
        model=previous_manifest,
        recipe="results/runs/{model}/{recipe}/recipe.json",
        chain=chain_files,
        calibration=calibration_windows,
        first=first_scores,
    output:
        scores="results/runs/{model}/{recipe}/step-{k}/scores.json",
    log:
        "logs/score/{model}/{recipe}/step-{k}.log",
    benchmark:
        "benchmarks/runs/score/{model}/{recipe}/step-{k}.tsv"
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
        selection=selection_flags,
        version=STAGE_VERSION["score"],
    shell:
        "fusegpt {params.trust:q} score --model {input.model:q} --recipe {input.recipe:q}"
        " --calibration {input.calibration:q} {params.selection:q} --device {resources.device:q}"
        " --output {output.scores:q} >{log:q} 2>&1"


rule fuse:
    """Step k: the least important unit goes, its neighbours take over what it did (Eq. 4-10)."""
    input:
        model=previous_manifest,
        recipe="results/runs/{model}/{recipe}/recipe.json",
        chain=chain_files,
        scores="results/runs/{model}/{recipe}/step-{k}/scores.json",
        finetune=finetune_windows,
    output:
        manifest="results/runs/{model}/{recipe}/step-{k}/manifest.json",
        delta="results/runs/{model}/{recipe}/step-{k}/delta.safetensors",
        training="results/runs/{model}/{recipe}/step-{k}/training.json",
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
        trust=trust_flag,
        directory=directory_of,
        finetune=finetune_flag,
        version=STAGE_VERSION["fuse"],
    shell:
        "fusegpt {params.trust:q} fuse --model {input.model:q} --recipe {input.recipe:q}"
        " --scores {input.scores:q} {params.finetune:q} --device {resources.device:q}"
        " --output {params.directory:q} >{log:q} 2>&1"
