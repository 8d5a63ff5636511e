import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd.models.tfmot import import_tfmot
from keras_kd.quantizing.ranges import Ranges, measure_of, off_the_middle
from keras_kd.quantizing.sites import Site

VALUES = np.random.default_rng(0).normal(size=200_000).astype("float32")


def test_ranges_that_are_measured():
    outlier = np.append(VALUES, np.float32(100.0))
    assert measure_of("minmax", 8)(outlier) == (VALUES.min(), 100.0)
    low, high = measure_of("percentile", 8)(outlier)
    assert -4.5 < low < -3.5 and 3.5 < high < 4.5

    def error(low, high):
        scale = (high - low) / 255
        rounded = np.round((np.clip(outlier, low, high) - low) / scale) * scale + low
        return np.square(rounded - outlier).mean()

    low, high = measure_of("mse", 8)(outlier)
    assert error(low, high) <= error(float(VALUES.min()), 100.0)
    assert measure_of("learned", 8)(outlier) == (low, high)


def test_no_pixel_of_8_bits_lies_in_the_middle_of_two_steps():
    low, high = off_the_middle(-1.0, 1.0, 8)
    assert low <= -1.0 and high >= 1.0 and high - low < 2.02
    places = (np.arange(256) / 127.5 - 1.0 - low) / (high - low) * 255
    assert np.abs(places % 1.0 - 0.5).min() > 1e-3
    assert -low * 255 / (high - low) == pytest.approx(128)
    assert off_the_middle(-1.0, 2.0, 8) == (-1.0, 2.0)
    assert off_the_middle(0.0, 1.0, 8) == (0.0, 1.0) and off_the_middle(0.0, 0.0, 8) == (0.0, 0.0)


def test_the_parts_of_a_concatenation_widen_its_range_only():
    whole, part = Site("whole", shared="whole:output:0:0"), Site("part", shared="whole:output:0:0")
    ranges = Ranges([part, whole], 8, "minmax")
    ranges.set_range(whole, -1.0, 1.0)
    ranges.quantized(part, tf.constant([-0.5, 0.5]), training=True)
    assert ranges.to_json() == {whole.name: [-1.0, 1.0]}
    ranges.quantized(part, tf.constant([-0.5, 3.0]), training=True)
    (low, high) = ranges.to_json()[whole.name]
    assert low == pytest.approx(-1.0, abs=1e-6) and high > 1.0
    ranges.quantized(whole, tf.constant([-0.5, 0.5]), training=True)
    assert ranges.to_json()[whole.name][0] > low


SITE = Site("layer")


@pytest.mark.parametrize("bits", [8, 16])
def test_values_are_rounded_to_a_grid_with_an_exact_zero(bits):
    ranges = Ranges([SITE], bits)
    ranges.set_range(SITE, -2.0, 2.0 if bits == 16 else 3.0)
    assert ranges.to_json() == {SITE.name: [-2.0, 2.0 if bits == 16 else 3.0]}
    rounded = np.asarray(ranges.quantized(SITE, tf.constant([0.0, *VALUES[:1000]]), False))
    assert rounded[0] == 0.0
    step = (4.0 / 65534) if bits == 16 else 5.0 / 255
    inside = np.abs(VALUES[:1000]) < 1.9
    assert np.abs(rounded[1:] - VALUES[:1000])[inside].max() <= step / 2 + 1e-6
    np.testing.assert_allclose(rounded / step, np.round(rounded / step), atol=2e-2)


def test_only_minmax_follows_what_it_sees():
    for kind, moves in (("minmax", True), ("percentile", False), ("mse", False)):
        ranges = Ranges([SITE], 8, kind)
        ranges.set_range(SITE, -1.0, 1.0)
        ranges.quantized(SITE, tf.constant([-3.0, 5.0]), training=True)
        changed = ranges.to_json()[SITE.name] != [-1.0, 1.0]
        assert changed is moves, kind
        before = ranges.to_json()
        ranges.quantized(SITE, tf.constant([-9.0, 9.0]), training=False)
        assert ranges.to_json() == before


def test_learned_ranges_have_gradients():
    ranges = Ranges([SITE], 8, "learned")
    ranges.set_range(SITE, -1.0, 1.0)
    assert len(ranges.trainable_variables) == 2
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(ranges.quantized(SITE, tf.constant([-3.0, 0.5, 5.0]), training=True))
    gradients = tape.gradient(loss, [v.value for v in ranges.trainable_variables])
    assert sorted(float(g) for g in gradients) == [1.0, 1.0]


def test_half_precision_is_rounded_in_float32():
    ranges = Ranges([SITE])
    ranges.set_range(SITE, -1.0, 1.0)

    class Half(keras.layers.Layer):
        def call(self, x):
            return ranges.quantized(SITE, x, True)

    outputs = Half(dtype="mixed_bfloat16")(tf.constant([0.25, 3.0]))
    assert outputs.dtype == tf.bfloat16


def test_a_quantizer_of_the_users_own():
    quantizers = import_tfmot().quantization.keras.quantizers
    ranges = Ranges(
        [SITE],
        make_quantizer=lambda bits: quantizers.AllValuesQuantizer(
            num_bits=bits, per_axis=False, symmetric=False, narrow_range=False
        ),
    )
    ranges.set_range(SITE, -1.0, 1.0)
    ranges.quantized(SITE, tf.constant([-3.0, 5.0]), training=True)
    assert ranges.to_json()[SITE.name] == [-3.0, 5.0]
