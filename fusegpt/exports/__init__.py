"""Exports: a model as other programs run it, smaller on the disk, each verified by loading it."""
