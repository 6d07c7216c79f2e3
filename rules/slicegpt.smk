"""Width slicing: no steps, each sparsity is cut from the dense model, and is a wildcard.

Rotations of a sparsity come from the signals of the model sliced by it so far, so no two
sparsities share more than the model and the calibration windows.
"""


rule slice:
    """The dense model with every hidden size cut; fusegpt.json is written last."""
    input:
        model=at.source,
        calibration=ask.calibration_windows,
    output:
        record=at.sliced,
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
        trust=say.trust,
        model=model_directory,
        settings=say.recipe,
        directory=directory_of,
        version=STAGE_VERSION["slice"],
    shell:
        "fusegpt {params.trust:q} slice --model {params.model:q}"
        " --recipe-settings {params.settings:q} --sparsity {wildcards.sparsity:q}"
        " --calibration {input.calibration:q} --device {resources.device:q}"
        " --output {params.directory:q} >{log:q} 2>&1"
