import random

import keras
import numpy as np
import pytest

from keras_kd.compression.running.randomness import drawn_from, stage_seed


def draw():
    layer = keras.layers.Dense(3)
    layer.build((None, 2))
    return [random.random(), np.random.rand(), *np.asarray(layer.kernel).ravel()]


def test_draws_depend_on_the_seed_alone():
    with drawn_from(7):
        first = draw()
    keras.utils.set_random_seed(1)
    with drawn_from(7):
        assert draw() == first
    with drawn_from(8):
        assert draw() != first


def test_the_callers_generators_go_on_as_they_were():
    keras.utils.set_random_seed(1)
    expected = [random.random(), np.random.rand()]
    keras.utils.set_random_seed(1)
    with pytest.raises(KeyError), drawn_from(7):
        draw()
        raise KeyError
    assert [random.random(), np.random.rand()] == expected


def test_attempts_and_stages_have_seeds_of_their_own():
    seeds = {stage_seed(2**31 - 1, stage, attempt) for stage in range(5) for attempt in range(5)}
    assert len(seeds) == 25
    np.random.seed(max(seeds))
