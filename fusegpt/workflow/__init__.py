"""What the Snakefile needs to know: the checked experiments, without torch."""
