"""Tables, figures, the page and the model card: they read result files, never load a model."""

__all__: list[str] = []
