import keras
import numpy as np
import pytest
from keras import layers

from keras_kd.models.calls import operations_of
from keras_kd.quantizing.kernels import KernelRounding, quantizable_kernels

# Layer, shape of its input, and the shape of its scales by the name of a kernel.
LAYERS = [
    (lambda: layers.Dense(5), (4,), {"kernel": (5,)}),
    (lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 3)), (6, 4), {"kernel": (2, 3)}),
    (lambda: layers.Conv1D(5, 3), (8, 4), {"kernel": (5,)}),
    (lambda: layers.Conv2D(5, 3), (8, 8, 4), {"kernel": (5,)}),
    (lambda: layers.Conv2DTranspose(5, 3), (8, 8, 4), {"kernel": (5,)}),
    (lambda: layers.DepthwiseConv2D(3, depth_multiplier=2), (8, 8, 4), {"kernel": (4, 2)}),
    (
        lambda: layers.SeparableConv2D(5, 3),
        (8, 8, 4),
        {"depthwise_kernel": (4, 1), "pointwise_kernel": (5,)},
    ),
    (lambda: layers.LSTM(3), (8, 4), {"kernel": (12,), "recurrent_kernel": (12,)}),
]


def kernels_of(make, shape, bits=8, **arguments):
    i = keras.Input(shape)
    model = keras.Model(i, make()(i))
    return quantizable_kernels(operations_of(model), lambda path, layer: bits, **arguments)


@pytest.mark.parametrize(("make", "shape", "scales"), LAYERS)
@pytest.mark.parametrize("bits", [8, 4])
def test_a_kernel_is_rounded_to_a_symmetric_grid_per_output(make, shape, scales, bits):
    kernels = kernels_of(make, shape, bits)
    assert {
        kernel.name: tuple(kernel.variable.shape[axis] for axis in kernel.channels)
        for kernel in kernels
    } == scales
    before = [np.asarray(kernel.variable.value).copy() for kernel in kernels]
    rounding = KernelRounding(kernels)
    rounding.bake()
    for kernel, values in zip(kernels, before, strict=True):
        columns, rounded = (
            np.asarray(kernel.to_columns(x)) for x in (values, kernel.variable.value)
        )
        steps = 2 ** (bits - 1) - 1
        scale = np.abs(columns).max(0) / steps
        expected = np.round(columns / scale) * scale
        np.testing.assert_allclose(rounded, expected, atol=1e-6)
        assert max(len(np.unique(column)) for column in rounded.T) <= 2 * steps + 1
        np.testing.assert_array_equal(kernel.from_columns(columns), values)
    # What is on the grid stays where it is.
    once = [np.asarray(kernel.variable.value).copy() for kernel in kernels]
    rounding.bake()
    for kernel, values in zip(kernels, once, strict=True):
        np.testing.assert_allclose(kernel.variable.value, values, atol=1e-7)


def test_embeddings_have_one_scale():
    i = keras.Input((3,), dtype="int32")
    model = keras.Model(i, layers.Embedding(7, 4)(i))
    (kernel,) = quantizable_kernels(operations_of(model), lambda path, layer: 8)
    assert kernel.name == "embeddings" and kernel.channels == ()


def test_embeddings_of_4_bits_have_a_scale_for_each_row():
    """As in the file; rows of small numbers stay what they are."""
    i = keras.Input((3,), dtype="int32")
    model = keras.Model(i, layers.Embedding(7, 4, name="table")(i))
    (kernel,) = quantizable_kernels(operations_of(model), lambda path, layer: 4)
    assert kernel.channels == (0,)
    table = np.random.default_rng(0).normal(size=(7, 4)).astype("float32")
    table[3:] *= 0.01
    kernel.variable.assign(table)
    KernelRounding([kernel]).bake()
    baked = np.asarray(kernel.variable)
    assert (np.abs(baked - table) <= np.abs(table).max(axis=1, keepdims=True) / 13).all()
    assert (np.abs(baked).max(axis=1) > 0).all()


def test_a_shared_kernel_is_rounded_once_and_a_spared_one_not_at_all():
    shared = layers.Dense(4, name="shared")
    i = keras.Input((4,))
    model = keras.Model(i, layers.Dense(2, name="logits")(shared(shared(i))))
    found = quantizable_kernels(
        operations_of(model), lambda path, layer: None if path == "logits" else 8
    )
    assert [kernel.path for kernel in found] == ["shared"]


def test_a_kernel_clustered_as_a_whole_has_one_scale_and_keeps_its_zeros():
    arguments = {"pruned": True, "clustered": {"dense": "kernel"}}
    (kernel,) = kernels_of(lambda: layers.Dense(5, name="dense"), (4,), **arguments)
    assert kernel.channels == () and kernel.kept.groups is not None
    (kernel,) = kernels_of(lambda: layers.Dense(5, name="dense"), (4,), clustered={})
    assert kernel.channels == (1,) and not kernel.kept
