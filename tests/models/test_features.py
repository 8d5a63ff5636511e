import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd.losses.shared.masks import get_keras_mask
from keras_kd.models.features import FeatureReader, feature_shape, find_layer, layer_paths


def nested_model():
    inner_input = keras.Input((4,))
    inner_output = keras.layers.Dense(3, name="inner_dense")(inner_input)
    backbone = keras.Model(inner_input, inner_output, name="backbone")
    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(2, name="head")(backbone(inputs))
    return keras.Model(inputs, outputs, name="nested")


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first = keras.layers.Dense(3, name="first")
        self.second = keras.layers.Dense(2, name="second")
        self.unused = keras.layers.Dense(1, name="unused")

    def call(self, x, training=None):
        return self.second(self.first(x))


def test_find_layer_reaches_into_nested_models():
    model = nested_model()
    assert find_layer(model, "backbone/inner_dense").units == 3
    assert find_layer(model, "head").units == 2


def attention_model(scores=False):
    inputs = keras.Input((5, 8))
    for name in ("first", "second"):  # the softmax inside the second has a number in its name
        attention = keras.layers.MultiHeadAttention(2, 4, name=name)
        x, weights = attention(inputs, inputs, return_attention_scores=True)
    return keras.Model(inputs, [x, weights] if scores else x)


def test_features_come_from_layers_within_layers():
    model = attention_model(scores=True)
    x = np.random.default_rng(0).normal(size=(3, 5, 8)).astype("float32")
    paths = ["second/softmax", "second/query_dense"]
    (_, scores), features = FeatureReader(model, paths).run(model, x, training=False)
    np.testing.assert_array_equal(features["second/softmax"], scores)
    kernel, bias = (weight.numpy() for weight in model.get_layer("second").weights[:2])
    np.testing.assert_allclose(
        features["second/query_dense"], np.einsum("btc,chd->bthd", x, kernel) + bias, atol=1e-5
    )


@pytest.mark.parametrize("path", ["second/absent", "second/softmax/absent"])
def test_absent_layer_within_a_layer_is_refused(path):
    with pytest.raises(ValueError, match=f"no layer '{path}'"):
        find_layer(attention_model(), path)


@pytest.mark.parametrize("path", ["absent", "backbone/absent", "head/inner_dense"])
def test_absent_layer_is_refused_with_those_that_exist(path):
    with pytest.raises(ValueError, match="has no layer") as error:
        find_layer(nested_model(), path)
    assert "backbone/inner_dense" in str(error.value)
    assert path in str(error.value)


def test_layer_paths_lists_nested_layers():
    paths = layer_paths(nested_model())
    assert "backbone" in paths
    assert "backbone/inner_dense" in paths


@pytest.mark.parametrize("graph", [False, True])
def test_features_come_from_the_same_single_pass(graph):
    model = nested_model()
    calls = []
    inner = model.get_layer("backbone").get_layer("inner_dense")
    original = inner.call
    inner_call = lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs)  # noqa: E731
    object.__setattr__(inner, "call", inner_call)
    reader = FeatureReader(model, ["backbone/inner_dense"])
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    run = (lambda v: reader.run(model, v, training=False)) if not graph else None
    if graph:
        run = tf.function(lambda v: reader.run(model, v, training=False))
    outputs, features = run(tf.constant(x))
    assert len(calls) == 1
    expected = x @ inner.kernel.numpy() + inner.bias.numpy()
    np.testing.assert_allclose(features["backbone/inner_dense"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(outputs, model(x), rtol=1e-5, atol=1e-6)
    assert inner.__dict__["call"] is inner_call


def test_model_is_left_as_it_was_found():
    model = nested_model()
    reader = FeatureReader(model, ["head"])
    reader.run(model, tf.zeros((1, 4)), training=False)
    assert "call" not in model.get_layer("head").__dict__


def test_model_is_left_as_it_was_found_after_an_error():
    model = nested_model()
    reader = FeatureReader(model, ["head"])
    with pytest.raises(Exception):  # noqa: B017 (Keras's own error, of whatever kind)
        reader.run(model, tf.zeros((1, 7)), training=False)
    assert "call" not in model.get_layer("head").__dict__


def test_subclassed_models_can_be_read():
    model = Subclassed()
    model(tf.zeros((1, 4)))
    _, features = FeatureReader(model, ["first"]).run(model, tf.ones((2, 4)), training=False)
    np.testing.assert_allclose(features["first"], model.first(tf.ones((2, 4))), rtol=1e-6)


def test_layer_that_is_not_called_is_named():
    model = Subclassed()
    model(tf.zeros((1, 4)))
    with pytest.raises(ValueError, match=r"'unused'.*has no output"):
        FeatureReader(model, ["unused"]).run(model, tf.ones((2, 4)), training=False)


def test_reading_works_on_tf_keras_models():
    tf_keras = pytest.importorskip("tf_keras")
    inputs = tf_keras.Input((4,))
    hidden = tf_keras.layers.Dense(3, name="hidden")(inputs)
    model = tf_keras.Model(inputs, tf_keras.layers.Dense(2)(hidden))
    reader = FeatureReader(model, ["hidden"])
    run = tf.function(lambda v: reader.run(model, v, training=True))
    _, features = run(tf.ones((2, 4)))
    np.testing.assert_allclose(
        features["hidden"], model.get_layer("hidden")(tf.ones((2, 4))), rtol=1e-6
    )


def test_feature_shape_is_known_for_functional_models_only():
    assert feature_shape(nested_model(), "backbone/inner_dense") == (None, 3)
    model = Subclassed()
    model(tf.zeros((1, 4)))
    assert feature_shape(model, "first") is None
    with pytest.raises(ValueError, match="has no layer"):
        feature_shape(nested_model(), "absent")


def test_the_error_suggests_the_path_of_a_nested_layer_or_a_similar_name():
    inputs = keras.Input((4,))
    backbone = keras.Sequential([keras.layers.Dense(3, name="block3_out")], name="backbone")
    model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(backbone(inputs)))
    with pytest.raises(ValueError, match="Did you mean 'backbone/block3_out'"):
        find_layer(model, "block3_out")
    with pytest.raises(ValueError, match="Did you mean 'logits'"):
        find_layer(model, "logit")
    with pytest.raises(ValueError, match="no layer 'zzz'"):
        find_layer(model, "zzz")


@pytest.mark.parametrize("graph", [False, True])
def test_a_layer_that_is_called_twice_in_one_pass_is_refused(graph):
    shared, inputs = keras.layers.Dense(3, name="shared"), keras.Input((4,))
    first = keras.layers.Identity(name="first")(shared(inputs))
    model = keras.Model(inputs, first + shared(2.0 * inputs))

    def run(path):
        read = lambda x: FeatureReader(model, [path]).run(model, x, training=False)  # noqa: E731
        return (tf.function(read) if graph else read)(tf.ones((2, 4)))[1][path]

    with pytest.raises(ValueError, match=r"'shared'.*called several times.*Identity"):
        run("shared")
    np.testing.assert_allclose(run("first"), shared(tf.ones((2, 4))), rtol=1e-6)


def test_a_model_that_is_built_in_the_pass_can_be_read():
    class Unbuilt(keras.Model):
        def __init__(self):
            super().__init__()
            self.first = keras.layers.Dense(3, name="first")

        def call(self, x):
            return self.first(x)

    model = Unbuilt()
    _, features = FeatureReader(model, ["first"]).run(model, tf.ones((2, 4)), training=False)
    np.testing.assert_allclose(features["first"], model.first(tf.ones((2, 4))), rtol=1e-6)


class Padded(keras.layers.Layer):
    def call(self, x, padding_mask=None):
        return x + 1.0


@pytest.mark.parametrize("steps", [4, None])
def test_padding_is_the_mask_of_features_of_the_same_length(steps):
    inputs, padding = keras.Input((steps, 3)), keras.Input((steps,), dtype="int32")
    x = Padded(name="same")(inputs, padding_mask=padding)
    model = keras.Model([inputs, padding], keras.layers.AveragePooling1D(2, name="half")(x))

    @tf.function(
        input_signature=[tf.TensorSpec((None, steps, 3)), tf.TensorSpec((None, steps), "int32")]
    )
    def masks(x, padding):
        features = FeatureReader(model, ["same", "half"]).run(model, [x, padding], False)[1]
        return [getattr(feature, "_keras_mask", None) for feature in features.values()]

    kept = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], "int32")
    same, half = masks(tf.ones((2, 4, 3)), tf.constant(kept))
    np.testing.assert_array_equal(same, kept.astype(bool))
    assert half is None or (half.shape == (2, 2) and np.all(half))


class Pair(keras.layers.Layer):
    """A decoder layer as KerasHub's: two sequences with a padding each."""

    def call(self, x, encoded=None, decoder_padding_mask=None, encoder_padding_mask=None):
        return x + keras.ops.mean(encoded, axis=1, keepdims=True)


@pytest.mark.parametrize(("length", "open_length"), [(4, False), (3, False), (4, True), (3, True)])
def test_encoder_and_decoder_have_the_padding_of_their_own(length, open_length):
    inputs = []
    for steps in (4, length):
        steps = None if open_length else steps
        inputs += [keras.Input((steps, 3)), keras.Input((steps,), dtype="int32")]
    embedded = keras.layers.Dense(3, name="of_encoder")(inputs[0])
    encoded = Padded(name="encoder")(embedded, padding_mask=inputs[1])
    decoded = Pair(name="decoder")(
        keras.layers.Dense(3, name="of_decoder")(inputs[2]),
        encoded=encoded,
        decoder_padding_mask=inputs[3],
        encoder_padding_mask=inputs[1],
    )
    model = keras.Model(inputs, keras.layers.Dense(3, name="head")(decoded))
    paddings = [np.arange(steps) < kept for steps, kept in ((4, 2), (length, 1))]
    x = []
    for padding in paddings:
        x += [tf.ones((2, len(padding), 3)), tf.constant(np.tile(padding, (2, 1)), "int32")]
    names = ["encoder", "decoder", "of_encoder", "of_decoder", "head"]
    features = FeatureReader(model, names).run(model, x, False)[1]
    for name, expected in zip(names, (0, 1, 0, 1, 1), strict=True):
        mask = get_keras_mask(features[name])
        np.testing.assert_array_equal(mask, np.tile(paddings[expected], (2, 1)), err_msg=name)
