from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_kd as kd

X = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
Y = np.array([0, 1, 1, 0, 1, 0])


def network(seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, use_bias=False)])


def distil(optimizer, epochs=3, student=None, weight=0.3, **compiled):
    distiller = kd.Distiller(
        network(1), student or network(), kd.losses.KLDivergence(2.0), student_loss_weight=weight
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(optimizer, loss, **compiled)
    distiller.fit(X, Y, batch_size=3, epochs=epochs, shuffle=False, verbose=0)
    return distiller


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.promise
def test_steps_are_those_of_two_momentum_buffers_in_float64():
    teacher, kernel = (network(i).get_weights()[0].astype("d") for i in (1, 0))
    of_labels = of_teacher = np.zeros_like(kernel)
    for step in range(6):
        x, y = X[3 * (step % 2) :][:3].astype("d"), Y[3 * (step % 2) :][:3]
        z = x @ kernel
        g_labels = 0.3 * x.T @ (softmax(z) - np.eye(2)[y]) / 3
        g_teacher = 0.7 * x.T @ (2 * (softmax(z / 2) - softmax(x @ teacher / 2))) / 3
        of_labels = (0.9 - 0.075) * of_labels - 0.1 * g_labels
        of_teacher = (0.9 + 0.075) * of_teacher - 0.1 * g_teacher
        kernel = kernel + of_labels + of_teacher
    for compiled in ({}, {"jit_compile": True}, {"run_eagerly": True}):
        distiller = distil(kd.DOT(0.1), **compiled)
        np.testing.assert_allclose(distiller.student.get_weights()[0], kernel, rtol=1e-4)


def test_without_a_difference_it_is_sgd():
    plain = distil(keras.optimizers.SGD(0.1, 0.9)).student.get_weights()[0]
    same = distil(kd.DOT(0.1, delta=0.0)).student.get_weights()[0]
    np.testing.assert_allclose(same, plain, rtol=1e-5)
    other = distil(kd.DOT(0.1)).student.get_weights()[0]
    assert np.abs(other - plain).max() > 1e-3


def test_regularizers_count_with_the_labels_and_schedules_and_decay_work():
    def student():
        keras.utils.set_random_seed(0)
        dense = keras.layers.Dense(2, kernel_regularizer=keras.regularizers.L2(0.1))
        return keras.Sequential([keras.Input((3,)), dense])

    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
    trained = [
        distil(optimizer, student=student()).student.get_weights()[0]
        for optimizer in (
            keras.optimizers.SGD(rate, 0.9, weight_decay=0.01),
            kd.DOT(rate, delta=0.0, weight_decay=0.01),
        )
    ]
    np.testing.assert_allclose(trained[1], trained[0], rtol=1e-5)


def test_after_the_end_of_distillation_the_labels_alone_count():
    def run(optimizer):
        distiller = kd.Distiller(
            network(1), network(), kd.losses.KLDivergence(), stop_distillation_at=0
        )
        distiller.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        distiller.fit(X, Y, batch_size=3, epochs=2, shuffle=False, verbose=0)
        return distiller.student.get_weights()[0]

    np.testing.assert_allclose(run(kd.DOT(0.1)), run(keras.optimizers.SGD(0.1, 0.825)), rtol=1e-5)


@pytest.mark.promise
def test_a_scaled_loss_and_a_saved_optimizer(tmp_path):
    scaled = keras.optimizers.LossScaleOptimizer(kd.DOT(0.1))
    np.testing.assert_allclose(
        distil(scaled).student.get_weights()[0],
        distil(kd.DOT(0.1)).student.get_weights()[0],
        rtol=1e-4,
    )
    distiller = distil(kd.DOT(0.1))
    distiller.save(tmp_path / "d.keras")
    loaded = keras.saving.load_model(tmp_path / "d.keras")
    loaded.teacher = network(1)
    assert loaded.optimizer.get_config() == distiller.optimizer.get_config()
    for each in (distiller, loaded):
        each.fit(X, Y, batch_size=3, epochs=2, shuffle=False, verbose=0)
    np.testing.assert_array_equal(
        loaded.student.get_weights()[0], distiller.student.get_weights()[0]
    )


def test_refuses_one_gradient_and_wrong_momentums():
    model = network()
    model.compile(kd.DOT(), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match="DOT needs the gradients"):
        model.fit(X, Y, verbose=0)
    for arguments in ({"delta": 0.1}, {"delta": -0.1}, {"momentum": 0.05}):
        with pytest.raises(ValueError, match="DOT: `delta`"):
            kd.DOT(**arguments)
    with pytest.raises(ValueError, match="DOT: `momentum`"):
        kd.DOT(momentum=1.0)


@pytest.mark.promise
def test_a_loss_that_remembers_examples_does_so_once_in_a_step():
    def bank(optimizer):
        models = []
        for seed in (1, 0):
            keras.utils.set_random_seed(seed)
            inputs = keras.Input((3,))
            hidden = keras.layers.Dense(4, name="hidden")(inputs)
            models.append(keras.Model(inputs, keras.layers.Dense(2)(hidden)))
        crd = kd.losses.CRD(6, negatives=4, dimension=4, momentum=0.9, seed=0)
        distiller = kd.Distiller(*models, kd.Hint("hidden", "hidden", loss=crd))
        distiller.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        y = {"index": np.arange(6), "label": Y}
        distiller.fit(X, y, batch_size=6, shuffle=False, verbose=0)
        return [v.numpy() for layer in crd.parameters._flatten_layers() for v in layer.variables]

    for one, other in zip(bank(kd.DOT(0.0)), bank(keras.optimizers.SGD(0.0)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
