from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd

X = np.random.default_rng(0).normal(size=(96, 3)).astype("float32")
Y = np.random.default_rng(1).integers(0, 4, 96)


def network(seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, use_bias=False)])


def made(weights="balanced", losses=None, seed=0, rate=0.0, **arguments):
    losses = losses or [kd.losses.KLDivergence(2.0), kd.losses.LogitsMSE()]
    distiller = kd.Distiller(network(9), network(seed), losses, weights, 0.25, **arguments)
    distiller.compile(
        keras.optimizers.SGD(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    return distiller


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def norms():
    """The mean norms over three batches of 32, in float64."""
    teacher, student = (network(i).get_weights()[0].astype("d") for i in (9, 0))
    found = []
    for i in range(3):  # rows at even distances: arrays may be sorted
        x, y = X[i::3].astype("d"), Y[i::3]
        t, s = x @ teacher, x @ student
        slopes = [
            softmax(s) - np.eye(4)[y],
            2 * (softmax(s / 2) - softmax(t / 2)),
            2 * (s - t) / 4,
        ]
        found.append([np.linalg.norm(x.T @ slope / 32) for slope in slopes])
    return np.mean(found, axis=0)


def test_weights_give_each_gradient_the_norm_of_the_first(capsys):
    distiller = made()
    before = distiller.student.get_weights()[0]
    assert distiller.get_config()["distillation_loss_weights"] == "balanced"
    distiller.fit(X, Y, epochs=1, verbose=2)
    _, kl, mse = norms()
    assert distiller.distillation_loss_weights[0] == 1.0
    assert distiller.distillation_loss_weights[1] == pytest.approx(kl / mse, rel=1e-3)
    np.testing.assert_array_equal(distiller.student.get_weights()[0], before)
    line = capsys.readouterr().out
    assert f"Balanced weights: kl_divergence 1, logits_mse {kl / mse:.4g}"[:50] in line
    label = 0.25 * norms()[0]
    share = 100 * label / (label + 2 * 0.75 * kl)
    assert f"Share of the gradient: student_loss {share:.0f} %" in line
    shares = kd.gradient_shares(distiller, X, Y)
    assert list(shares) == ["student_loss", "kl_divergence", "logits_mse"]
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares["kl_divergence"] == pytest.approx(shares["logits_mse"], rel=1e-3)
    assert 100 * shares["student_loss"] == pytest.approx(share, rel=1e-3)


def test_they_are_used_and_stay_and_do_not_depend_on_the_run(capsys):
    distiller = made(rate=0.1)
    logs = distiller.fit(X, Y, epochs=2, verbose=0, shuffle=False).history
    assert not capsys.readouterr().out
    weights = distiller.distillation_loss_weights
    for epoch in (0, 1):
        total = logs["kl_divergence"][epoch] + weights[1] * logs["logits_mse"][epoch]
        assert logs["distillation_loss"][epoch] == pytest.approx(total, rel=1e-5)
    again = made(rate=0.1)
    again.fit(tf.data.Dataset.from_tensor_slices((X, Y)).batch(32), epochs=2, verbose=0)
    assert again.distillation_loss_weights == weights
    np.testing.assert_allclose(
        again.student.get_weights()[0], distiller.student.get_weights()[0], rtol=1e-5
    )


def test_a_loaded_or_resumed_distiller_has_the_same_weights(tmp_path):
    distiller = made()
    distiller.fit(X, Y, epochs=1, verbose=0)
    weights = distiller.distillation_loss_weights
    distiller.save(tmp_path / "d.keras")
    loaded = keras.saving.load_model(tmp_path / "d.keras")
    assert loaded.distillation_loss_weights == weights
    copy = kd.Distiller.from_config(made().get_config())
    assert copy.objective.unbalanced and copy.balances
    backup = tmp_path / "backup"
    made().fit(
        X, Y, epochs=1, verbose=0, callbacks=[kd.BackupAndRestore(backup, delete_checkpoint=False)]
    )
    # Another initial student would be given other weights.
    other, resumed = made(seed=5), made(seed=5)
    other.fit(X, Y, epochs=1, verbose=0)
    assert other.distillation_loss_weights != weights
    logs = resumed.fit(X, Y, epochs=2, verbose=0, callbacks=[kd.BackupAndRestore(backup)]).history
    assert resumed.distillation_loss_weights == weights
    total = logs["kl_divergence"][-1] + weights[1] * logs["logits_mse"][-1]
    assert logs["distillation_loss"][-1] == pytest.approx(total, rel=1e-5)


def test_losses_that_draw_are_left_as_they_were():
    def model(width):
        inputs = keras.Input((6, 6, 1))
        x = keras.layers.Conv2D(width, 3, name="map")(inputs)
        return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))

    hint = kd.Hint("map", "map", loss=kd.losses.MaskedGenerative(seed=3))
    distiller = kd.Distiller(
        model(4), model(3), [kd.losses.KLDivergence(), hint], "balanced", student_loss_weight=0.0
    )
    distiller.compile(keras.optimizers.SGD(0.0))
    maps = np.random.default_rng(0).normal(size=(8, 6, 6, 1))
    distiller.fit(maps, epochs=1, batch_size=8, verbose=0)
    state = hint.loss.parameters.seed_generator.state.numpy()
    fresh = kd.losses.MaskedGenerative(seed=3)
    fresh.build((None, 4, 4, 4), (None, 4, 4, 3))
    once = fresh.parameters.seed_generator
    once.next()
    np.testing.assert_array_equal(state, once.state.numpy())
    assert len(distiller.distillation_loss_weights) == 2


def test_refuses_what_cannot_be_measured():
    with pytest.raises(ValueError, match='"balanced"'):
        made("equal")
    with pytest.raises(ValueError, match="can be read only once"):
        made().fit(((X[:32], Y[:32]) for _ in range(3)), epochs=1, verbose=0)
    without_partners = made(losses=[kd.losses.KLDivergence(), kd.losses.ClassConsistency()])
    with pytest.raises(ValueError, match="'class_consistency' cannot be balanced"):
        without_partners.fit(X[:3], np.arange(3), epochs=1, verbose=0)
    with pytest.raises(ValueError, match="not measured yet"):
        made().train_on_batch(X, Y)
    with pytest.raises(ValueError, match="MutualDistiller takes numbers"):
        kd.MutualDistiller([network(0), network(1)], kd.losses.KLDivergence(), "balanced")


SORTED = np.argsort(Y, kind="stable")


def balanced(x, y, **arguments):
    losses = [kd.losses.KLDivergence(2.0), kd.losses.DKD()]
    distiller = made(losses=losses)
    distiller.fit(x, y, verbose=0, **arguments)
    return distiller.distillation_loss_weights[1]


@pytest.mark.promise
def test_class_weights_count_as_the_sample_weights_that_they_are():
    by_class = {0: 20.0, 1: 0.5, 2: 0.5, 3: 1.0}
    weights = np.array([by_class[label] for label in Y])
    expected = balanced(X, Y, sample_weight=weights)
    assert balanced(X, Y, class_weight=by_class) == pytest.approx(expected, rel=1e-4)
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(96)
    of_dataset = balanced(data, None, class_weight=by_class)
    assert of_dataset == balanced(X, Y, sample_weight=weights, batch_size=96)
    assert abs(expected / balanced(X, Y) - 1) > 0.02
    distiller = made(weights=None)
    one_hot = np.eye(4)[Y]
    distiller.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    assert kd.gradient_shares(distiller, X, one_hot, class_weight=by_class) == pytest.approx(
        kd.gradient_shares(distiller, X, one_hot, weights), rel=1e-5
    )


def test_arrays_sorted_by_class_are_measured_on_all_classes():
    x, y = (np.repeat(part[SORTED], 10, axis=0) for part in (X, Y))
    expected = balanced(X, Y, batch_size=96)
    assert balanced(x, y, batch_size=96) == pytest.approx(expected, rel=0.1)
    first = balanced(x, y, batch_size=32, shuffle=False)
    assert abs(first / expected - 1) > 0.1


def test_what_is_held_out_is_not_measured():
    broken = np.concatenate([X[:48], 100 * X[48:]])
    half = balanced(X[:48], Y[:48], batch_size=48)
    assert balanced(broken, Y, batch_size=48, validation_split=0.5) == half


def test_gradients_in_float16_do_not_vanish():
    def weights(policy):
        def convolutional(seed, dtype=None):
            keras.utils.set_random_seed(seed)
            inputs = keras.Input((32, 32, 1))
            x = keras.layers.Conv2D(32, 3, padding="same", name="map", dtype=dtype)(inputs)
            x = keras.layers.GlobalAveragePooling2D(dtype=dtype)(x)
            return keras.Model(inputs, keras.layers.Dense(4)(x))

        losses = [kd.losses.KLDivergence(2.0), kd.Hint("map", "map")]
        distiller = kd.Distiller(
            convolutional(0), convolutional(1, policy), losses, "balanced", 0.25
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile(keras.optimizers.SGD(0.0), loss)
        x = 1e-2 * np.random.default_rng(0).normal(size=(64, 32, 32, 1)).astype("float32")
        distiller.fit(x, np.arange(64) % 4, verbose=0)
        return distiller.distillation_loss_weights

    assert weights("mixed_float16") == pytest.approx(weights("float32"), rel=0.01)


def test_loaded_weights_count_in_evaluate(tmp_path):
    """Also where a function that evaluates was made before."""
    data = (X, Y)
    distillers = [made(seed=seed) for seed in (0, 1)]
    for distiller in distillers:
        distiller.compile("sgd", distiller.compile_arguments.loss, evaluate_distillation=True)
        distiller.fit(*data, verbose=0)
    first, other = distillers
    expected = first.evaluate(*data, verbose=0, return_dict=True)
    assert other.evaluate(*data, verbose=0, return_dict=True) != expected
    first.save_weights(tmp_path / "first.weights.h5")
    other.load_weights(tmp_path / "first.weights.h5")
    found = other.evaluate(*data, verbose=0, return_dict=True)
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_backup_says_the_weights_that_it_brings(tmp_path, capsys):
    class Kill(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise InterruptedError

    with pytest.raises(InterruptedError):
        made().fit(X, Y, epochs=2, callbacks=[kd.BackupAndRestore(tmp_path / "b"), Kill()])
    first = capsys.readouterr().out.split("Share")[0].strip()
    other = made(seed=1)
    other.fit(X, Y, epochs=2, callbacks=[kd.BackupAndRestore(tmp_path / "b")], verbose=2)
    assert f"Of the backup: {first}\n" in capsys.readouterr().out
    assert ", ".join(f"{w:g}" for w in other.distillation_loss_weights[1:]) in first
