"""What each run of Snakemake imports and looks up, for the server that forks them.

The modules of this package too: not for a run that shall see others under their names.
"""

import snakemake.cli
import snakemake.report.html_reporter
import snakemake.storage

snakemake.cli.get_argument_parser()  # it looks for plug-ins in all that is installed
