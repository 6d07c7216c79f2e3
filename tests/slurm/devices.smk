"""Two GPU jobs that wait for each other, so both run at once; each notes the device it locked."""


rule both:
    input:
        expand("devices/{job}.txt", job=["a", "b"]),


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
