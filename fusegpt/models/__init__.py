"""The only code that knows transformers' insides; nothing in it is written for one architecture."""

__all__: list[str] = []
