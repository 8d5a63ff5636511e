import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.data.labels import class_labels


def test_class_labels():
    assert class_labels({"index": 1, "label": 2}) == 2
    assert class_labels({"index": 1}) is None
    assert class_labels({"a": 1, "label": 2}) == {"a": 1, "label": 2}
    assert class_labels(3) == 3
    assert class_labels(None) is None


def network(units):
    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(units, name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, name="logits")(hidden))


@pytest.mark.parametrize("as_dataset", [False, True])
@pytest.mark.promise
def test_contrastive_loss_trains_beside_the_loss_on_labels(as_dataset):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 5)).astype("float32")
    y = {"index": np.arange(32), "label": rng.integers(0, 3, 32)}
    hint = kd.Hint("hidden", "hidden", loss=kd.losses.CRD(32, negatives=8, dimension=4, seed=0))
    distiller = kd.Distiller(network(8), network(4), [kd.losses.KLDivergence(), hint])
    distiller.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    train = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    arguments = (train,) if as_dataset else (x, y)
    logs = distiller.fit(*arguments, validation_data=(x, y["label"]), epochs=3, verbose=0).history
    assert logs["student_loss"][-1] < logs["student_loss"][0]
    assert all(np.isfinite(logs[hint.name]))
    assert min(logs[hint.name]) > 0
    assert "val_accuracy" in logs
    y["label"][-1] = 7
    with pytest.raises(ValueError, match="holds 7"):
        distiller.fit(x, y, verbose=0)
