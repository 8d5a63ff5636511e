"""Removing channels and blocks from a Keras 3 model so that a smaller one remains."""
