"""What each run of Snakemake imports and looks up, for the server that forks them.

The modules of this package too; a run that shall see others under their names forgets them first.
"""

import pandas  # noqa: F401
import smart_open  # noqa: F401
import snakemake.cli
import snakemake.report.html_reporter
import snakemake.storage

import fusegpt.pruning.recipe
import fusegpt.workflow.alike
import fusegpt.workflow.dense_scores
import fusegpt.workflow.experiment
import fusegpt.workflow.exported
import fusegpt.workflow.flags
import fusegpt.workflow.inputs
import fusegpt.workflow.library
import fusegpt.workflow.patterns
import fusegpt.workflow.targets
import fusegpt.workflow.together
import fusegpt.workflow.until
import fusegpt.yaml_files  # noqa: F401

snakemake.cli.get_argument_parser()  # it looks for plug-ins in all that is installed
