"""FuseGPT as a graph of artifacts: fetch, sample, score and fuse step by step, merge, measure."""

from snakemake.utils import min_version

min_version("9.20")


configfile: f"{workflow.current_basedir}/config/config.yaml"


include: "rules/common.smk"


# Before the rules: later, and outputs in a bucket would lose all constraints.
wildcard_constraints:
    model=one_of(PLAN.models),
    recipe=one_of([DENSE, *PLAN.recipes]),
    sparsity=one_of(SPARSITIES),
    windows=one_of(PLAN.windows),
    answers=one_of(PLAN.answers),
    evaluation=one_of(PLAN.evaluations),
    experiment=one_of(PLAN.experiments),
    export=one_of(say.exports),
    k=r"\d{3}",
    shard=r"\d+-of-\d+",


include: "rules/data.smk"
include: "rules/prune.smk"
include: "rules/checkpoint.smk"
include: "rules/evaluate.smk"
include: "rules/export.smk"
include: "rules/slicegpt.smk"
include: "rules/report.smk"


localrules:
    all,
    take_scores,
    scores,
    checkpoints,
    tables,


rule all:
    """Tables, figures and the report of every experiment, and its checkpoints."""
    default_target: True
    input:
        report=at.report,
        checkpoints=every_checkpoint,
        cards=every_card,
        exports=every_export,


rule scores:
    """How important each unit was, before each step."""
    input:
        every_score,


rule checkpoints:
    """The pruned models as plain transformers directories."""
    input:
        asked_checkpoints,


rule tables:
    """One CSV per experiment."""
    input:
        every_table,


for experiment in PLAN.experiments:

    rule:
        # One experiment's table and figure, by name.
        name:
            target_of(experiment)
        input:
            table=layout.table(experiment=experiment),
            figure=layout.figure(experiment=experiment),
