import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_kd.compression.layer_choice import LayerChoice
from keras_kd.compression.prunable_weights import PrunableWeight, prunable_weights


def _counts(kernels):
    return {path: len(found) for path, found in kernels.items()}


def test_attention_and_recurrent_kernels_are_found():
    inputs = keras.Input((4, 8))
    x = layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    x = layers.GroupQueryAttention(4, 2, 1, name="grouped")(x, x)
    x = layers.Bidirectional(layers.GRU(3, return_sequences=True), name="both")(x)
    x = layers.LSTM(3, name="lstm")(layers.LayerNormalization(name="norm")(x))
    model = keras.Model(inputs, layers.Dense(2, name="dense")(x))
    kernels, skipped = prunable_weights(model)
    assert _counts(kernels) == {"attention": 4, "grouped": 4, "both": 4, "lstm": 2, "dense": 1}
    assert skipped == {"norm": "TF-MOT does not prune LayerNormalization"}
    axes = [weight.summed_axes for weight in kernels["attention"]]
    assert axes == [(0,), (0,), (0,), (0, 1)]


def test_layers_that_tf_mot_does_not_know_but_would_prune():
    inputs = keras.Input((4, 6, 6, 2))
    x = layers.ConvLSTM2D(3, 3, name="conv_lstm")(inputs)
    x = layers.Reshape((16, 3))(x)
    model = keras.Model(inputs, layers.Conv1DTranspose(2, 3, name="transpose")(x))
    assert _counts(prunable_weights(model)[0]) == {"conv_lstm": 2, "transpose": 1}


def test_a_shared_kernel_is_counted_once():
    class Tied(keras.Model):
        def __init__(self):
            super().__init__()
            self.embedding = layers.Embedding(7, 4, name="embedding")
            self.head = layers.ReversibleEmbedding(7, 4, name="head")
            self.head.build((None,))
            self.embedding.build((None,))
            object.__setattr__(self.embedding, "_embeddings", self.head._embeddings)

        def call(self, x):
            return self.head(self.embedding(x), reverse=True)

    model = Tied()
    model(np.zeros((1, 3), "int32"))
    kernels, skipped = prunable_weights(model)
    assert _counts(kernels) == {"embedding": 1}
    assert skipped == {"head": "its kernel is that of 'embedding'"}


def test_kernels_that_are_no_variables_are_skipped():
    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(8, name="lora"), layers.Dense(8, name="quantized")]
    )
    model.get_layer("lora").enable_lora(2)
    model.get_layer("quantized").quantize("int8")
    kernels, skipped = prunable_weights(model)
    assert not kernels
    assert skipped["lora"].startswith("its kernel is no float variable of its own")
    assert skipped["quantized"].startswith("its kernel is no float variable of its own")


def test_frozen_and_spared_layers_are_named():
    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(8, name="frozen"), layers.Dense(8, name="spared")]
    )
    model.get_layer("frozen").trainable = False
    _, skipped = prunable_weights(model, LayerChoice("Prune", exclude="spared"))
    assert skipped == {"frozen": "it is not trainable", "spared": "it is excluded by `exclude`"}


@pytest.mark.parametrize(
    ("shape", "summed", "matrix_shape"),
    [
        ((4, 5), None, (4, 5)),
        ((3, 2, 4, 5), None, (24, 5)),
        ((4, 2, 3), (0,), (4, 6)),
        ((2, 3, 4), (0, 1), (6, 4)),
        ((2, 4, 3), (1,), (4, 6)),
    ],
)
def test_a_matrix_and_back(shape, summed, matrix_shape):
    values = np.arange(np.prod(shape), dtype="float32").reshape(shape)
    weight = PrunableWeight(keras.Variable(values), summed)
    matrix = weight.to_matrix(tf.constant(values))
    assert matrix.shape == matrix_shape
    np.testing.assert_array_equal(weight.from_matrix(matrix), values)


def test_the_matrix_is_what_an_einsum_computes():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 6, 5)).astype("float32")
    layer = layers.EinsumDense("abc,dcb->ad", output_shape=3)
    y = layer(x)
    matrix = PrunableWeight(layer.kernel, (1, 2)).to_matrix(layer.kernel.value)
    rows = np.transpose(x, (0, 2, 1)).reshape(2, 30)
    np.testing.assert_allclose(rows @ matrix.numpy(), y, atol=1e-5)


def test_keras_hub_layers_are_opened():
    keras_hub = pytest.importorskip("keras_hub")
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=11, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=16
    )
    kernels, _ = prunable_weights(backbone)
    assert _counts(kernels)["transformer_layer_0"] == 6
