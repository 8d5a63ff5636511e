import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.litert.model_file import ModelFile
from keras_kd.litert.runtime import LiteRuntime


def attention(x):
    return layers.MultiHeadAttention(2, 4)(x, x)


@pytest.mark.parametrize(
    "layer",
    [attention, layers.Softmax((-2, -1)), layers.Softmax((2, 3)), layers.Softmax((1, 2, 3))],
)
def test_softmax_over_several_axes_is_one_operator(layer, tmp_path):
    image = keras.Input((3, 4, 5))
    model = keras.Model(image, layer(image))
    path = kd.export_tflite(model, tmp_path / "model.tflite", verbose=False)
    assert {"SOFTMAX"} <= set(ModelFile(path.read_bytes()).operator_counts())
    assert not {"EXP", "LOG"} & set(ModelFile(path.read_bytes()).operator_counts())
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype("float32")
    (outputs,) = LiteRuntime(path).predict({LiteRuntime(path).inputs[0].name: x}).values()
    np.testing.assert_allclose(outputs, model.predict(x, verbose=0), atol=1e-5)
