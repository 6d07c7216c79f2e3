"""Two GPU jobs that wait for each other, so both run at once; each notes the device it locked."""


rule both:
    input:
        expand("devices/{job}.txt", job=["a", "b"]),


rule pair:
    """One job of two GPUs: it works in two processes, each of which sees a device of its own."""
    output:
        "devices/pair.txt",
    log:
        "logs/devices/pair.log",
    conda:
        "../../environment.yml"
    resources:
        gpu=2,
        slurm_partition="gpu",
    shell:
        "python -m tests.slurm.pair {output:q} 2>{log:q}"


rule take:
    output:
        "devices/{job}.txt",
    log:
        "logs/devices/{job}.log",
    conda:
        "../../environment.yml"
    resources:
        gpu=1,
        slurm_partition="gpu",
    shell:
        "python -m tests.slurm.take {output:q} meeting 2>{log:q}"
