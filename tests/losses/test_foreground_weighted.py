from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_kd.losses import NST, VID, ForegroundWeighted, KLDivergence, PearsonFeatures


def formula(teacher, student, labels, foreground=1.0, background=0.5):
    total = 0.0
    for t, s, label in zip(teacher, student, labels, strict=True):
        share = (label != 0).astype("float64")
        rows, columns = label.shape[0] // t.shape[0], label.shape[1] // t.shape[1]
        share = share.reshape(t.shape[0], rows, t.shape[1], columns).mean((1, 3))
        values = ((t - s) ** 2).mean(-1)
        for weight, part in ((foreground, share), (background, 1 - share)):
            if part.sum() > 0:
                total += weight * (part * values).sum() / part.sum()
    return total / len(teacher)


@pytest.mark.parametrize("scale", [1, 2])
def test_value_and_gradient(check, scale):
    labels = check.random.integers(0, 3, (3, 4 * scale, 2 * scale))
    labels[1] = 0
    labels[2] = 1
    check.golden(
        ForegroundWeighted(foreground=2.0, background=0.7),
        lambda t, s, labels: formula(t, s, labels, 2.0, 0.7),
        check.normal(3, 4, 2, 3),
        check.normal(3, 4, 2, 3),
        labels,
    )


def test_weights_of_one_on_both_sides_of_a_half_are_twice_the_mean(check):
    teacher, student = check.normal(2, 4, 4, 3), check.normal(2, 4, 4, 3)
    labels = np.zeros((2, 4, 4), int)
    labels[:, :2] = 1
    value = ForegroundWeighted(foreground=1.0, background=1.0)(teacher, student, labels=labels)
    np.testing.assert_allclose(value, 2 * ((teacher - student) ** 2).mean(), rtol=1e-10)
    value = ForegroundWeighted(background=0.0)(teacher, student, labels=labels)
    np.testing.assert_allclose(value, ((teacher - student)[:, :2] ** 2).mean(), rtol=1e-10)


def test_other_masks_and_losses(check):
    teacher, student = check.normal(2, 2, 2, 3), check.normal(2, 2, 2, 3)
    labels = check.random.integers(-1, 2, (2, 4, 4))
    loss = ForegroundWeighted(mask=lambda labels: labels["classes"] >= 0)
    np.testing.assert_allclose(
        loss(teacher, student, labels={"classes": labels}),
        formula(teacher, student, labels + 1),
        rtol=1e-6,
    )
    loss = ForegroundWeighted(background_class=-1)
    np.testing.assert_allclose(
        loss(teacher, student, labels=labels[..., None]),
        formula(teacher, student, labels + 1),
        rtol=1e-6,
    )
    standard = [(x - x.mean((0, 1, 2))) / x.std((0, 1, 2), ddof=1) for x in (teacher, student)]
    value = ForegroundWeighted(PearsonFeatures())(teacher, student, labels=labels + 1)
    np.testing.assert_allclose(value, formula(*standard, labels + 1) / 2, rtol=1e-4)


def test_hard_features_and_sample_weights(check):
    teacher, student = check.normal(4, 2, 2, 3), check.normal(4, 2, 2, 3)
    labels = check.random.integers(0, 2, (4, 4, 4))
    loss = ForegroundWeighted()
    for scale in (0.0, 1e4):
        check.finite(loss, scale * teacher, scale * student, labels)
    check.sample_weights(loss, (4, 2, 2, 3), labels)


def test_serialization():
    loss = ForegroundWeighted(PearsonFeatures(), 3.0, 2.0, background_class=255)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert type(copy.loss) is PearsonFeatures
    assert (copy.foreground, copy.background, copy.background_class) == (3.0, 2.0, 255)


def test_refuses_what_it_cannot_weigh(check):
    for inner in (VID(), "fitnet"):
        with pytest.raises(TypeError, match="without variables of its own"):
            ForegroundWeighted(inner)
    maps, labels = np.zeros((2, 2, 2, 3)), np.zeros((2, 2, 2))
    for inner in (NST(),):
        with pytest.raises(ValueError, match="one value per position"):
            ForegroundWeighted(inner)(maps, maps, labels=labels)
    assert KLDivergence().call(maps, maps).shape == (2, 2, 2)
    with pytest.raises(ValueError, match="needs labels"):
        ForegroundWeighted()(maps, maps)
    with pytest.raises(ValueError, match="Pass `mask=`"):
        ForegroundWeighted()(maps, maps, labels=np.zeros(2, int))
    with pytest.raises(ValueError, match=r"needs maps of shape"):
        ForegroundWeighted()(np.zeros((2, 3)), np.zeros((2, 3)), labels=labels)
    with pytest.raises(TypeError, match="`mask`"):
        ForegroundWeighted(mask=1)
