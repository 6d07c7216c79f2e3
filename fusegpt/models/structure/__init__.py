"""Looking at a model: its blocks, their sublayers, what runs through them. Nothing changes."""
