from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.backend import set_keras_mask

import keras_kd as kd
from keras_kd.distilling.projections import OrthogonalProjection, matrix_exponential, whiten
from keras_kd.losses import VID, FitNet


def built(width, units, scale=1.0):
    layer = OrthogonalProjection(units)
    layer.build((None, width))
    side = max(width, units)
    layer.generator.assign(scale * np.random.default_rng(0).normal(size=(side, side)))
    return layer


@pytest.mark.parametrize("scale", [0.0, 1.0, 5.0])
def test_matrix_exponential(scale):
    matrix = scale * np.random.default_rng(0).normal(size=(6, 6))
    matrix = matrix - matrix.T
    values, vectors = np.linalg.eig(matrix)
    expected = (vectors * np.exp(values)) @ np.linalg.inv(vectors)
    np.testing.assert_allclose(matrix_exponential(tf.constant(matrix)), expected.real, atol=1e-8)


@pytest.mark.parametrize(("width", "units"), [(3, 5), (4, 4), (6, 2), (16, 24)])
def test_the_matrix_is_orthogonal_and_keeps_inner_products(width, units):
    matrix = built(width, units).matrix().numpy().astype("d")
    assert matrix.shape == (width, units)
    compiled = tf.function(built(width, units).matrix, jit_compile=True)()
    np.testing.assert_allclose(compiled, matrix, atol=1e-4)
    product = matrix @ matrix.T if width <= units else matrix.T @ matrix
    np.testing.assert_allclose(product, np.eye(min(width, units)), atol=2e-5)
    if width <= units:
        x = np.random.default_rng(1).normal(size=(7, width))
        projected = built(width, units)(x.astype("float32")).numpy()
        np.testing.assert_allclose(projected @ projected.T, x @ x.T, atol=1e-3)


@pytest.mark.promise
def test_it_stays_orthogonal_while_it_is_trained_and_learns_a_rotation():
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    rotation[:, 0] *= np.sign(np.linalg.det(rotation))
    x = np.random.default_rng(1).normal(size=(64, 4)).astype("float32")
    model = keras.Sequential([keras.Input((4,)), OrthogonalProjection(4)])
    model.compile(keras.optimizers.Adam(0.1), "mse", jit_compile=False)
    history = model.fit(x, x @ rotation, epochs=50, batch_size=64, verbose=0).history["loss"]
    assert history[-1] < 0.05 * history[0]
    matrix = model.layers[-1].matrix().numpy()
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(4), atol=1e-5)
    copy = OrthogonalProjection.from_config(model.layers[-1].get_config())
    assert copy.units == 4


def test_whitened_features_have_the_unit_covariance():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 3, 3, 4)) @ rng.normal(size=(4, 4)) + 3.0
    for compiled in (False, True):
        rows = tf.function(whiten, jit_compile=compiled)(tf.constant(x, tf.float32))
        rows = rows.numpy().reshape(-1, 4)
        np.testing.assert_allclose(np.cov(rows.T), np.eye(4), atol=2e-3)
        np.testing.assert_allclose(rows.mean(0), np.zeros(4), atol=1e-5)
    # Symmetric: the whitened feature is as near to the centered one as whitening allows.
    centered = x.reshape(-1, 4) - x.reshape(-1, 4).mean(0)
    values, vectors = np.linalg.eigh(np.cov(centered.T))
    expected = centered @ (vectors / np.sqrt(values + 1e-5)) @ vectors.T
    np.testing.assert_allclose(rows, expected, atol=1e-3)


def test_few_rows_and_masks():
    rng = np.random.default_rng(0)
    few = whiten(tf.constant(rng.normal(size=(3, 8)), tf.float32)).numpy()
    assert np.isfinite(few).all()
    values = np.linalg.eigvalsh(np.cov(few.T))
    np.testing.assert_allclose(values[-2:], 1.0, atol=1e-2)
    np.testing.assert_allclose(values[:-2], 0.0, atol=1e-4)
    x = rng.normal(size=(5, 6, 3)).astype("float32")
    mask = np.arange(6) < 4
    padded = np.where(mask[:, None], x, 100.0)
    result = whiten(tf.constant(padded), tf.constant(np.broadcast_to(mask, (5, 6))))
    np.testing.assert_allclose(result[:, :4], whiten(tf.constant(x[:, :4])), atol=1e-4)
    assert not np.any(result[:, 4:])


@pytest.mark.parametrize("normalize", ["standardize", "whiten"])
def test_a_hint_projects_and_normalizes(normalize):
    rng = np.random.default_rng(0)
    teacher, student = rng.normal(size=(8, 5)).astype("f"), rng.normal(size=(8, 3)).astype("f")
    hint = kd.Hint("a", "b", projection="orthogonal", normalize=normalize)
    hint.build([(None, 5)], [(None, 3)])
    (projection,) = hint.layers
    assert type(projection) is OrthogonalProjection
    projected = student @ projection.matrix().numpy()
    if normalize == "standardize":
        target = (teacher - teacher.mean(0)) / (teacher.std(0, ddof=1) + 1e-6)
    else:
        values, vectors = np.linalg.eigh(np.cov(teacher.T.astype("d")))
        centered = teacher - teacher.mean(0)
        target = centered @ (vectors / np.sqrt(values + 1e-5)) @ vectors.T
    expected = ((target - projected) ** 2).mean()
    np.testing.assert_allclose(hint([teacher], [student]), expected, rtol=1e-3)
    copy = kd.Hint.from_config(hint.get_config())
    assert (copy.projection, copy.normalize) == ("orthogonal", normalize)


def test_equal_channels_are_rotated_too_and_masks_are_kept():
    hint = kd.Hint("a", "b", projection="orthogonal", normalize="standardize")
    hint.build([(None, None, 3)], [(None, None, 3)])
    assert len(hint.layers) == 1
    rng = np.random.default_rng(0)
    teacher, student = rng.normal(size=(2, 4, 6, 3)).astype("f")
    mask = np.broadcast_to(np.arange(6) < 4, (4, 6))
    masked = tf.constant(np.where(mask[..., None], student, 9.0))
    set_keras_mask(masked, tf.constant(mask))
    expected = hint([teacher[:, :4]], [student[:, :4]])
    np.testing.assert_allclose(
        hint([np.where(mask[..., None], teacher, 9.0)], [masked]), expected, rtol=1e-5
    )


def test_refuses_what_it_would_ignore():
    with pytest.raises(ValueError, match="`normalize`"):
        kd.Hint("a", "b", normalize="batch")
    with pytest.raises(TypeError, match="`projection`"):
        kd.Hint("a", "b", projection="linear")
    for arguments in ({"projection": "orthogonal"}, {"normalize": "whiten"}):
        with pytest.raises(ValueError, match="VID does not compare"):
            kd.Hint("a", "b", loss=VID(), **arguments)
    assert kd.Hint("a", "b", loss=FitNet(), normalize="whiten").normalize == "whiten"
