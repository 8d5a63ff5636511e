"""The exactness of shrinking, checked without its own bookkeeping.

Every weight is a random number of its own, so that the channels that a smaller layer kept are
found by comparing values. In a copy of the original the others are set to zero: their scales and
offsets, and the kernels that make them. Both models must then give the same outputs.
"""

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd.models.layers import leaf_layers


def randomize(model, seed=0):
    generator = np.random.default_rng(seed)
    for weight in model.weights:
        if "float" not in str(weight.dtype):
            continue
        values = generator.normal(0.0, 1.0, weight.shape)
        if len(weight.shape) >= 2:
            values /= np.sqrt(max(1, np.prod(weight.shape[:-1])))
        else:  # no two alike
            values = generator.permutation(np.linspace(-1.5, 1.7, int(np.prod(weight.shape))))
            values = values.reshape(weight.shape)
        if weight.path.endswith("gamma"):
            values = 1.0 + 0.3 * values
        if weight.path.endswith("variance"):  # that of `Normalization` as well
            values = 0.5 + np.abs(values)
        weight.assign(values)
    return model


def with_zeros(model, smaller):
    """Return a copy of `model` with the channels that `smaller` lacks at zero."""
    copied = keras.models.clone_model(model)
    copied.set_weights(model.get_weights())
    small = dict(leaf_layers(smaller))
    for path, layer in leaf_layers(copied):
        if path not in small or not layer.weights:
            continue
        if isinstance(layer, (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)):
            _zero_heads(layer, small[path])
            continue
        marks = _marks(layer)
        if marks is None:
            continue
        kept = np.isin(marks, _marks(small[path]))
        assert kept.sum() == len(_marks(small[path])), path
        for weight in layer.weights:
            values = np.array(weight)
            one = values.ndim == 1 or "bias" in weight.path or "embeddings" in weight.path
            makes = any("bias" in other.path for other in layer.weights)
            if type(layer).__name__.endswith("Transpose") and values.ndim > 1:
                values[..., ~kept, :] = 0
            elif values.shape[-1:] == kept.shape and (one or makes):
                values[..., ~kept] = 0
            weight.assign(values)
        if isinstance(layer, keras.layers.BatchNormalization) and not layer.scale:
            # Without a scale that could be zero, only a variance takes a channel to its offset.
            variance = np.array(layer.moving_variance)
            variance[~kept] = 1e30
            layer.moving_variance.assign(variance)
    return copied


def _marks(layer):
    """Numbers that tell the channels of a layer apart."""
    for weight in layer.weights:
        values = np.array(weight)
        if values.ndim == 1 and not weight.path.endswith("moving_variance"):
            return values
    if isinstance(layer, keras.layers.Embedding):
        return np.array(layer.embeddings)[0]
    return None


def _zero_heads(layer, smaller):
    marks = np.array(layer._value_dense.bias)[:, 0]
    kept = np.isin(marks, np.array(smaller._value_dense.bias)[:, 0])
    assert kept.sum() == smaller._value_dense.bias.shape[0]
    for projection in (layer._key_dense, layer._value_dense):
        kernel, bias = np.array(projection.kernel), np.array(projection.bias)
        kernel[:, ~kept], bias[~kept] = 0, 0
        projection.kernel.assign(kernel)
        projection.bias.assign(bias)
    marks = np.array(layer._output_dense.bias)
    kept = np.isin(marks, np.array(smaller._output_dense.bias))
    kernel = np.array(layer._output_dense.kernel)
    kernel[..., ~kept], marks[~kept] = 0, 0
    layer._output_dense.kernel.assign(kernel)
    layer._output_dense.bias.assign(marks)


def inputs_for(model, seed=1, batch=3):
    generator = np.random.default_rng(seed)
    values = []
    for tensor in model.inputs:
        shape = (batch, *(n or 5 for n in tensor.shape[1:]))
        if "int" in str(tensor.dtype):
            values.append(generator.integers(0, 7, shape))
        else:
            values.append(generator.normal(size=shape).astype("float32"))
    return values if len(values) > 1 else values[0]


def outputs_of(model, inputs):
    outputs = keras.tree.flatten(model(inputs, training=False))
    return [keras.ops.convert_to_numpy(output) for output in outputs]


@pytest.fixture
def assert_exact():
    """Shrink a model and compare it with the original with the removed channels at zero."""

    def check(model, ratio=0.5, tolerance=1e-5, smaller_than=None, **options):
        randomize(model)
        plan = kd.shrink_plan(model, ratio, **options)
        small = plan.apply()
        inputs = inputs_for(model)
        expected = outputs_of(with_zeros(model, small), inputs)
        untouched = outputs_of(model, inputs)
        for e, r, u in zip(expected, outputs_of(small, inputs), untouched, strict=True):
            assert e.shape == r.shape
            scale = np.abs(e).max()
            assert scale > 1e-3
            np.testing.assert_allclose(r, e, rtol=0, atol=tolerance * max(1.0, scale))
            assert np.abs(u - e).max() > 1e-3 * scale, "nothing that matters was removed"
        assert small.count_params() == plan.parameters[1] < plan.parameters[0]
        assert plan.parameters[0] == model.count_params()
        assert small.count_params() < (smaller_than or 0.75) * model.count_params()
        assert [layer.name for layer in small.layers] == [layer.name for layer in model.layers]
        return plan, small

    return check
