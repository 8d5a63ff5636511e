import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_kd.compression.stages.kernels import PrunableWeight, prunable_weights
from keras_kd.models.layer_choice import LayerChoice


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
    axes = [weight.input_axes for weight in kernels["attention"]]
    assert axes == [(0,), (0,), (0,), (0, 1)]
    assert [weight.input_axes for weight in kernels["lstm"]] == [(0,), (0,)]


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
    assert skipped["lora"].startswith("its kernel is not a float variable of its own")
    assert skipped["quantized"].startswith("its kernel is not a float variable of its own")


def test_frozen_and_spared_layers_are_named():
    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(8, name="frozen"), layers.Dense(8, name="spared")]
    )
    model.get_layer("frozen").trainable = False
    _, skipped = prunable_weights(model, LayerChoice("Prune", exclude="spared"))
    assert skipped == {"frozen": "it is not trainable", "spared": "it is excluded by `exclude`"}


@pytest.mark.parametrize(
    ("shape", "inputs", "outputs", "matrix_shape", "by_position"),
    [
        ((4, 5), (0,), (1,), (4, 5), (4, 5)),
        ((3, 2, 4, 5), (2,), (3,), (24, 5), (4, 30)),
        ((3, 2, 4, 5), (3,), (2,), (30, 4), (5, 24)),
        ((4, 2, 3), (0,), (1, 2), (4, 6), (4, 6)),
        ((2, 3, 4), (0, 1), (2,), (6, 4), (6, 4)),
        ((2, 4, 3), (1,), (0, 2), (4, 6), (4, 6)),
    ],
)
def test_a_matrix_and_back(shape, inputs, outputs, matrix_shape, by_position):
    values = np.arange(np.prod(shape), dtype="float32").reshape(shape)
    weight = PrunableWeight(keras.Variable(values), inputs, outputs)
    for positions, expected in ((False, matrix_shape), (True, by_position)):
        matrix = weight.to_matrix(tf.constant(values), positions)
        assert matrix.shape == expected
        np.testing.assert_array_equal(weight.from_matrix(matrix, positions), values)


KINDS = {
    "Dense": (layers.Dense(5), (None, 8)),
    "Conv1D": (layers.Conv1D(5, 3), (None, 9, 8)),
    "Conv2D": (layers.Conv2D(5, 3), (None, 9, 9, 8)),
    "Conv3D": (layers.Conv3D(5, 3), (None, 9, 9, 9, 8)),
    "Conv1DTranspose": (layers.Conv1DTranspose(5, 3), (None, 9, 8)),
    "Conv2DTranspose": (layers.Conv2DTranspose(5, 3), (None, 9, 9, 8)),
    "Conv3DTranspose": (layers.Conv3DTranspose(5, 3), (None, 9, 9, 9, 8)),
    "SeparableConv2D": (layers.SeparableConv2D(5, 3), (None, 9, 9, 8)),
    "EinsumDense": (layers.EinsumDense("abc,dc->abd", (None, 5)), (None, 9, 8)),
    "GRU": (layers.GRU(5), (None, 9, 8)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_input_axes_are_those_that_the_layer_sums_over(kind):
    layer, shape = KINDS[kind]
    layer = type(layer).from_config(layer.get_config())
    model = keras.Sequential([keras.Input(shape[1:]), layer])
    (weight, *_) = prunable_weights(model)[0][layer.name]
    assert [weight.shape[axis] for axis in weight.input_axes] == [8]
    # What one input channel is multiplied with lies at one place of this axis.
    x = np.zeros((1, *shape[1:]), "float32")
    x[..., 3] = 1.0
    before = np.asarray(layer(x))
    values = np.array(weight.variable)
    kept = np.moveaxis(values, weight.input_axes[0], 0)
    kept[np.arange(8) != 3] = 7.0
    weight.variable.assign(values)
    np.testing.assert_allclose(layer(x), before, atol=1e-6)


def test_embeddings_look_up_unless_they_are_tied():
    inputs = keras.Input((3,), dtype="int32")
    tied = layers.ReversibleEmbedding(9, 4, name="tied")
    x = layers.Add()([layers.Embedding(9, 4, name="rows")(inputs), tied(inputs)])
    kernels, _ = prunable_weights(keras.Model(inputs, tied(x, reverse=True)))
    assert kernels["rows"][0].input_axes is None
    assert (kernels["tied"][0].input_axes, kernels["tied"][0].output_axes) == ((1,), (0,))


def test_the_matrix_is_what_an_einsum_computes():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 6, 5)).astype("float32")
    layer = layers.EinsumDense("abc,dcb->ad", output_shape=3)
    y = layer(x)
    matrix = PrunableWeight(layer.kernel, (1, 2), (0,)).to_matrix(layer.kernel.value)
    rows = np.transpose(x, (0, 2, 1)).reshape(2, 30)
    np.testing.assert_allclose(rows @ matrix.numpy(), y, atol=1e-5)


def test_keras_hub_layers_are_opened():
    keras_hub = pytest.importorskip("keras_hub")
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=11, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=16
    )
    kernels, _ = prunable_weights(backbone)
    assert _counts(kernels)["transformer_layer_0"] == 6


def test_the_frozen_part_of_a_layer_is_spared():
    attention = layers.MultiHeadAttention(2, 4, name="attention")
    inputs = keras.Input((4, 8))
    model = keras.Model(inputs, attention(inputs, inputs))
    attention.query_dense.trainable = False
    found = prunable_weights(model)[0]["attention"]
    assert len(found) == 3 and all(weight.variable.trainable for weight in found)


def test_layers_of_one_name_are_all_found():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.parts = [layers.Dense(8, name="fc") for _ in range(3)]

        def call(self, x):
            for part in self.parts:
                x = part(x)
            return x

    model = Model()
    model(np.zeros((1, 8)))
    assert _counts(prunable_weights(model)[0]) == {"fc": 1, "fc_2": 1, "fc_3": 1}
    chosen = prunable_weights(model, LayerChoice("Prune", layers="fc_2"))[0]
    assert chosen["fc_2"][0].variable is model.parts[1].kernel and len(chosen) == 1
