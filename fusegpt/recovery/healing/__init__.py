"""Finishes: the whole pruned model is trained once, after the last removal."""
