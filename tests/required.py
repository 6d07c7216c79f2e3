"""Settings without which a method of a table has nothing to do."""

METRICS = {"given": {"blocks": ["1-4"]}}
"""Of metrics, by name; the others have a default for everything."""
