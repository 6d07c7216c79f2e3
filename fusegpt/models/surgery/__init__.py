"""Changing a model: units go, biases come, and its config always says so."""
