"""Models of sequences for the tests of teachers."""

import keras
import numpy as np
import pytest


@pytest.fixture
def tagger():
    """Make a model that answers at every position, with or without a mask for padding."""

    def make(seed, masked=True):
        keras.utils.set_random_seed(seed)
        tokens = keras.Input((6,), dtype="int32")
        x = keras.layers.Embedding(9, 4, mask_zero=masked)(tokens)
        return keras.Model(tokens, keras.layers.Dense(3)(x))

    return make


@pytest.fixture
def tokens():
    """Two padded sequences for a tagger."""
    return np.array([[1, 2, 0, 0, 0, 0], [3, 4, 5, 0, 0, 0]])
