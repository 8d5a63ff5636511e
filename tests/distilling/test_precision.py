from __future__ import annotations

import keras
import pytest

from keras_kd.distilling.precision import with_loss_scale


def student(policy):
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, dtype=policy)])


def test_a_float16_student_gets_a_loss_scale():
    optimizer = with_loss_scale(keras.optimizers.SGD(), student("mixed_float16"))
    assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    assert isinstance(optimizer.inner_optimizer, keras.optimizers.SGD)
    assert with_loss_scale(optimizer, student("mixed_float16")) is optimizer


def test_a_layer_inside_a_nested_model_counts():
    inputs = keras.Input((4,))
    nested = keras.Model(inputs, student("mixed_float16")(inputs))
    optimizer = with_loss_scale(keras.optimizers.SGD(), nested)
    assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_other_students_keep_their_optimizer(policy):
    optimizer = keras.optimizers.SGD()
    assert with_loss_scale(optimizer, student(policy)) is optimizer
    assert with_loss_scale(None, student(policy)) is None
