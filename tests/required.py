"""Settings without which a method of a table has nothing to do, or too much for a test."""

METRICS = {"given": {"blocks": ["1-4"]}, "policy_gradient": {"rounds": 2}, "gates": {"steps": 2}}
"""Of metrics, by name; the others have a default for everything."""
