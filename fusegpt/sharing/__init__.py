"""Blocks that compute with another block's weights: fewer values to store, as much to compute.

A compact checkpoint needs one import before plain transformers can load it:
``import fusegpt.sharing.modeling``.
"""
