"""The code of the guide to searching runs, with fewer candidates than a phone developer has."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd


@pytest.mark.slow
def test_code(run_guide, monkeypatch):
    digits = kd.datasets.load("digits", split="train", batch_size=-1)
    x = np.asarray(digits["image"], "float32") / 255.0
    y = np.asarray(digits["label"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def build(width, depth):
        image = keras.Input((8, 8, 1))
        z = image
        for _ in range(depth):
            z = keras.layers.Conv2D(width, 3, activation="relu", padding="same")(z)
        z = keras.layers.Flatten()(keras.layers.MaxPooling2D(2)(z))
        return keras.Model(image, keras.layers.Dense(10)(z))

    keras.utils.set_random_seed(0)
    model = build(32, 2)
    model.compile(keras.optimizers.Adam(0.003), loss, metrics=["accuracy"])
    model.fit(x[:800], y[:800], epochs=5, verbose=0)
    search, results = kd.search, []

    def quick(*arguments, budget=None, **given):
        if budget is not None:
            assert budget == "2h"
            few = {
                "widths": (0.5, 0.25),
                "depths": (1.0,),
                "formats": ("int8",),
                "stages": {"": []},
            }
            given |= {"trials": 2, "epochs": 4, "optimizer": keras.optimizers.Adam(0.01), **few}
        results.append(search(*arguments, **given))
        return results[-1]

    monkeypatch.setattr(kd, "search", functools.wraps(search)(quick))
    run_guide(
        "search.md",
        model=model,
        train=(x[:800], y[:800]),
        validation=(x[800:1000], y[800:1000]),
        test=(x[1000:], y[1000:]),
        examples=tf.data.Dataset.from_tensor_slices((x[:256], y[:256])),
        build=build,
    )
    _, own, augmented = results
    assert len(own.tried) == 4
    assert {file.candidate.student for file in own.tried} <= {"width 16", "width 8"}
    assert own.best.metric > 0.5
    assert len(augmented.tried) == 2 and "width 0.5" in augmented.tried[0].candidate.student
