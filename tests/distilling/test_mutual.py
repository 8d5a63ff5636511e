import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.teachers import Ensemble

SparseCE = keras.losses.SparseCategoricalCrossentropy


def network(units, name="peer", size=5):
    inputs = keras.Input((size,))
    hidden = keras.layers.Dense(units, activation="relu", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, name="logits")(hidden), name=name)


def linear():
    inputs = keras.Input((5,))
    return keras.Model(inputs, keras.layers.Dense(3, use_bias=False)(inputs))


def examples(count=32):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 5)).astype("float32"), rng.integers(0, 3, count)


def compiled(distiller, optimizer=None):
    distiller.compile(
        optimizer or keras.optimizers.SGD(0.5), SparseCE(from_logits=True), metrics=["accuracy"]
    )
    return distiller


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_one_step_of_three_peers_by_hand():
    x, y = examples()
    peers = [linear() for _ in range(3)]
    w = [peer.get_weights()[0].astype("float64") for peer in peers]
    distiller = compiled(
        kd.MutualDistiller(peers, kd.losses.KLDivergence(2.0), student_loss_weight=0.3)
    )
    history = distiller.fit(x, y, batch_size=32, verbose=0).history
    z = [x.astype("float64") @ v for v in w]
    totals = []
    for i in range(3):
        others = [j for j in range(3) if j != i]
        p = softmax(z[i])
        soft = softmax(z[i] / 2.0)
        taught = np.mean([soft - softmax(z[j] / 2.0) for j in others], axis=0)
        gradient = x.T @ (0.3 * (p - np.eye(3)[y]) + 0.7 * 2.0 * taught) / 32
        np.testing.assert_allclose(
            peers[i].get_weights()[0], w[i] - 0.5 * gradient, rtol=1e-5, atol=1e-6
        )
        labels = -np.mean(np.log(p[np.arange(32), y]))
        divergence = np.mean(
            [
                4.0 * np.mean(np.sum(q * (np.log(q) - np.log(soft)), -1))
                for q in (softmax(z[j] / 2.0) for j in others)
            ]
        )
        totals.append(0.3 * labels + 0.7 * divergence)
        assert history[f"peer_{i}_student_loss"][0] == pytest.approx(labels, rel=1e-5)
        assert history[f"peer_{i}_distillation_loss"][0] == pytest.approx(divergence, rel=1e-4)
        assert history[f"peer_{i}_loss"][0] == pytest.approx(totals[-1], rel=1e-5)
    assert history["loss"][0] == pytest.approx(sum(totals), rel=1e-5)


@pytest.mark.promise
def test_two_peers_with_hints_learn_as_in_a_distiller_of_their_own():
    x, y = examples()
    keras.utils.set_random_seed(3)
    peers = [network(6), network(4)]
    before = [peer.get_weights() for peer in peers]
    losses = [kd.losses.KLDivergence(2.0), kd.Hint("hidden", "hidden", name="hint")]
    mutual = kd.MutualDistiller(peers, losses, [1.0, 0.5])
    projections = [layer.get_weights() for layer in mutual.teaching_layers]
    assert [weights[0].shape for weights in projections] == [(6, 4), (4, 6)]
    compiled(mutual, keras.optimizers.Adam(0.01)).fit(x, y, batch_size=32, verbose=0)
    for i, (units, others) in enumerate(((6, 4), (4, 6))):
        student, teacher = network(units), network(others)
        student.set_weights(before[i])
        teacher.set_weights(before[1 - i])
        losses = [kd.losses.KLDivergence(2.0), kd.Hint("hidden", "hidden", name="hint")]
        alone = kd.Distiller(teacher, student, losses, [1.0, 0.5])
        alone.teaching_layers[0].set_weights(projections[i])
        compiled(alone, keras.optimizers.Adam(0.01)).fit(x, y, batch_size=32, verbose=0)
        for a, b in zip(student.get_weights(), peers[i].get_weights(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.promise
def test_peers_come_to_agree_and_to_be_right():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(512, 5)).astype("float32")
    y = np.argmax(x[:, :3], -1)
    mutual = compiled(
        kd.MutualDistiller([network(8), network(12)], kd.losses.KLDivergence(1.0)),
        keras.optimizers.Adam(0.02),
    )
    history = mutual.fit(x, y, validation_data=(x, y), epochs=8, batch_size=64, verbose=0).history
    for i in range(2):
        assert history[f"val_peer_{i}_accuracy"][-1] > 0.85
        divergences = history[f"peer_{i}_distillation_loss"]
        assert divergences[-1] < 0.3 * divergences[0]
        assert f"val_peer_{i}_distillation_loss" not in history
    labels = [history[f"val_peer_{i}_loss"][-1] for i in range(2)]
    assert history["val_loss"][-1] == pytest.approx(sum(labels), rel=1e-5)
    np.testing.assert_allclose(mutual.predict(x, verbose=0), mutual.peers[0](x), atol=1e-5)
    assert Ensemble(mutual.peers)(x).shape == (512, 3)


def test_evaluation_works_before_training_and_reports_every_peer():
    x, y = examples()
    mutual = compiled(kd.MutualDistiller([network(6), network(4)], kd.losses.KLDivergence()))
    results = mutual.evaluate(x, y, verbose=0, return_dict=True)
    for i, peer in enumerate(mutual.peers):
        accuracy = np.mean(np.argmax(peer(x), -1) == y)
        assert results[f"peer_{i}_accuracy"] == pytest.approx(accuracy)


@pytest.mark.promise
def test_a_saved_model_goes_on_as_the_one_that_was_not(tmp_path):
    x, y = examples()
    losses = [kd.losses.KLDivergence(2.0), kd.Hint("hidden", "hidden")]
    mutual = compiled(kd.MutualDistiller([network(6), network(4)], losses, [1.0, 0.5], 0.4), "adam")
    mutual.fit(x, y, batch_size=8, verbose=0)
    mutual.save(tmp_path / "mutual.keras")
    loaded = keras.saving.load_model(tmp_path / "mutual.keras")
    assert loaded.distillers[0].student_loss_weight == 0.4
    for model in (mutual, loaded):
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    assert len(loaded.weights) == len(mutual.weights)
    for a, b in zip(mutual.trainable_weights, loaded.trainable_weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_regularizers_weights_of_samples_and_schedules_count():
    x, y = examples()
    inputs = keras.Input((5,))
    dense = keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1))
    peers = [keras.Model(inputs, dense(inputs)), linear()]
    seen = []

    def weight(epoch):
        seen.append(epoch)
        return 0.0 if epoch else 1.0

    mutual = compiled(kd.MutualDistiller(peers, kd.losses.KLDivergence(), [weight]))
    penalty = 0.1 * np.sum(np.square(dense.kernel))
    half = np.repeat([0.0, 2.0], 16)
    z = peers[0](x).numpy()
    labels = -np.mean(np.log(softmax(z)[np.arange(32), y]) * half)
    data = tf.data.Dataset.from_tensor_slices((x, y, half)).batch(32)
    history = mutual.fit(data, epochs=2, verbose=0).history
    expected = 0.5 * labels + 0.5 * history["peer_0_distillation_loss"][0] + penalty
    assert history["peer_0_loss"][0] == pytest.approx(expected, rel=1e-4)
    assert 1 in seen
    assert history["peer_0_distillation_loss"][0] > 0
    assert history["peer_0_distillation_loss"][1] == 0


def test_subclassed_peers_are_built_from_the_first_batch():
    class Peer(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden = keras.layers.Dense(4, name="hidden")
            self.logits = keras.layers.Dense(3, name="logits")

        def call(self, x):
            return self.logits(self.hidden(x))

    mutual = kd.MutualDistiller(
        [Peer(), network(6)], [kd.losses.KLDivergence(), kd.Hint("hidden", "hidden")]
    )
    compiled(mutual).fit(*examples(), verbose=0)
    assert len(mutual.teaching_layers) == 2
    assert len(mutual.trainable_weights) == 4 + 4 + 2 * 2


same = network(4, "same")


@pytest.mark.parametrize(
    ("peers", "losses", "message"),
    [
        ([network(4)], kd.losses.KLDivergence(), "two peers or more"),
        (network(4), kd.losses.KLDivergence(), "two peers or more"),
        ([same, same], kd.losses.KLDivergence(), r"peers\[1\], 'same', is among the peers twice"),
        ([same, lambda x: x], kd.losses.KLDivergence(), r"`peers\[1\]` must be a keras.Model"),
        ([same, network(4, size=7)], kd.losses.KLDivergence(), r"inputs of shape \(7,\)"),
        ([same, linear()], kd.Hint("hidden", "hidden"), "no layer 'hidden'"),
    ],
)
def test_peers_that_do_not_fit_are_refused(peers, losses, message):
    with pytest.raises(ValueError, match=message):
        kd.MutualDistiller(peers, losses)


def test_data_that_does_not_fit_is_refused_before_training():
    x, y = examples()
    mutual = compiled(kd.MutualDistiller([network(4), network(4)], kd.losses.KLDivergence()))
    before = mutual.peers[0].get_weights()[0]
    with pytest.raises(ValueError, match=r"Labels must lie in 0 \.\.\. 2"):
        mutual.fit(x, y + 1, verbose=0)
    with pytest.raises(ValueError, match="the data holds no labels"):
        mutual.fit(x, verbose=0)
    with pytest.raises(ValueError, match="`compile` received no `loss`"):
        mutual.compile("sgd")
    np.testing.assert_array_equal(before, mutual.peers[0].get_weights()[0])


def test_regularizers_of_projections_count():
    x, y = examples()

    def loss(regularizer):
        keras.utils.set_random_seed(0)
        peers = [network(6, "a"), network(6, "b")]
        projection = keras.layers.Dense(6, kernel_regularizer=regularizer)
        hint = kd.Hint("hidden", "hidden", projection=projection)
        distiller = compiled(kd.MutualDistiller(peers, hint), keras.optimizers.SGD(0.0))
        history = distiller.fit(x, y, batch_size=32, verbose=0).history
        return history["loss"][0], sum(float(value) for value in distiller.losses)

    (plain, _), (regular, added) = loss(None), loss(keras.regularizers.L2(1.0))
    assert added > 1.0 and regular - plain == pytest.approx(added, rel=1e-4)


def test_without_a_loss_on_labels_evaluation_is_that_of_the_peers():
    x, _ = examples()
    peers = [network(6, "a"), network(4, "b")]
    distiller = kd.MutualDistiller(peers, kd.losses.KLDivergence(), student_loss_weight=0.0)
    distiller.compile(keras.optimizers.SGD(0.0))
    found = distiller.evaluate(x, verbose=0, return_dict=True)
    logits = [peer(x) for peer in peers]
    kl = kd.losses.KLDivergence()
    assert found["peer_0_loss"] == pytest.approx(float(kl(logits[1], logits[0])), rel=1e-4)
    assert found["loss"] == pytest.approx(found["peer_0_loss"] + found["peer_1_loss"], rel=1e-4)


def test_chunks_are_refused_where_xla_compiles_them():
    losses = kd.losses.KLDivergence(2.0, chunk_size=8)
    distiller = kd.MutualDistiller([network(4), network(4)], losses)
    with pytest.raises(ValueError, match="chunk_size"):
        distiller.compile("sgd", SparseCE(from_logits=True), jit_compile=True)
    assert not distiller._supports_xla()


@keras.saving.register_keras_serializable(package="test_mutual")
def rising(epoch):
    return 1.0 + 3.0 * epoch


@pytest.mark.promise
def test_a_loaded_distiller_has_the_values_of_the_last_epoch(tmp_path):
    peers = [network(4, f"peer_{i}") for i in range(3)]
    distiller = kd.MutualDistiller(peers, kd.losses.KLDivergence(rising), student_loss_weight=0.0)
    distiller.compile("sgd")
    x, _ = examples()
    distiller.fit(x, epochs=2, verbose=0)
    distiller.save(tmp_path / "peers.keras")
    loaded = keras.saving.load_model(tmp_path / "peers.keras")
    for schedules in loaded.schedules():
        assert [[float(v) for v in each.variables] for each in schedules] == [[4.0]] * 2
    assert loaded.evaluate(x, verbose=0) == pytest.approx(distiller.evaluate(x, verbose=0))
