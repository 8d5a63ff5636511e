from __future__ import annotations

import numpy as np
import tensorflow as tf

from keras_kd.litert.constants import stored_tensors
from keras_kd.litert.model_file import ModelFile


def converted(**options):
    kernel = np.arange(-8, 24, dtype="float32").reshape(8, 4)
    kernel[:, 0] = 0.0

    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((1, 8))])
        def __call__(self, x):
            return tf.nn.bias_add(tf.matmul(x, kernel), [1.0, 2.0, 3.0, 0.0])

    module = Module()
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.__call__.get_concrete_function()], module
    )
    for name, value in options.items():
        setattr(converter, name, value)
    return converter.convert()


def test_kernel_and_bias():
    by_axes = {tensor.axes: tensor for tensor in stored_tensors(ModelFile(converted()))}
    kernel, bias = by_axes[2], by_axes[1]
    assert (kernel.elements, kernel.bits, kernel.bytes) == (32, 32, 128)
    assert kernel.zeros == 8  # the zero of the range stands in the first column
    assert (bias.elements, bias.zeros, bias.bytes) == (4, 1, 16)
    assert kernel.users


def test_half_precision_is_told_with_what_takes_it_behind_the_conversion():
    content = converted(
        optimizations=[tf.lite.Optimize.DEFAULT],
        target_spec=tf.lite.TargetSpec(supported_types=[tf.float16]),
    )
    kernel = next(tensor for tensor in stored_tensors(ModelFile(content)) if tensor.axes == 2)
    assert (kernel.bits, kernel.bytes, kernel.zeros) == (16, 64, 8)
    assert len(kernel.users) >= 2  # the conversion to float32, and the product
