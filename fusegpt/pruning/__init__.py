"""Algorithm 1: score every unit, remove the least important, recover, repeat."""
