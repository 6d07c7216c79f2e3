"""FuseGPT: depth pruning of language models by removing blocks and fusing them into neighbours."""

__version__ = "0.1.0"
