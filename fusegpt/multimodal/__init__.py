"""A small image-text model made from parts that a package index has; trained in minutes."""

__all__: list[str] = []
