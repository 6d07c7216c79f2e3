"""Width slicing: no steps, each sparsity is cut from the dense model, and is a wildcard.

Rotations of a sparsity come from the signals of the model sliced by it so far, so no two
sparsities share more than the model and the calibration windows.
"""


rule slice:
    """The dense model with every hidden size cut; fusegpt.json is written last."""
    input:
        model="results/models/{model}/source.json",
        calibration=calibration_windows,
    output:
        record="results/slices/{model}/{recipe}/sparsity-{sparsity}/fusegpt.json",
    log:
        "logs/slice/{model}/{recipe}/sparsity-{sparsity}.log",
    benchmark:
        "benchmarks/runs/slice/{model}/{recipe}/sparsity-{sparsity}.tsv"
    conda:
        "../environment.yml"
    threads: 2
    resources:
        gpu=1,
        device="cpu",
    params:
        trust=trust_flag,
        model=model_directory,
        settings=slice_settings,
        directory=directory_of,
        version=STAGE_VERSION["slice"],
    shell:
        "fusegpt {params.trust:q} slice --model {params.model:q}"
        " --recipe-settings {params.settings:q} --sparsity {wildcards.sparsity:q}"
        " --calibration {input.calibration:q} --device {resources.device:q}"
        " --output {params.directory:q} >{log:q} 2>&1"


use rule card as card_slice with:
    input:
        record="results/slices/{model}/{recipe}/sparsity-{sparsity}/fusegpt.json",
        evaluations=evaluations_of_slice,
    output:
        card="results/cards/{model}/{recipe}/sparsity-{sparsity}.md",
    log:
        "logs/card/{model}/{recipe}/sparsity-{sparsity}.log",
    benchmark:
        "benchmarks/runs/card/{model}/{recipe}/sparsity-{sparsity}.tsv"
