"""Keras models: what is known of one without training it."""
