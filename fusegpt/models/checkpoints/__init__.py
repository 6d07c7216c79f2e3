"""Between a model and the disk: loading, saving, and the chain of steps."""
