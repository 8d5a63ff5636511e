"""Data with few labels or none, and students in half precision."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd

SparseCE = keras.losses.SparseCategoricalCrossentropy


def network(width, name="network", scale=1.0):
    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(width, name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3)(hidden * scale), name=name)


def examples(count=32):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 5)).astype("float32"), rng.integers(0, 3, count)


def log_softmax(x):
    x = np.asarray(x, "float64")
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


# Validation data


def pairs(x, y):
    return tf.data.Dataset.from_tensor_slices((x, y))


X, Y = examples()
UNUSABLE = {
    "single examples": (pairs(X, Y), r"single examples.*dataset\.batch\(32\)"),
    "no examples": (pairs(X, Y).batch(8).take(0), "no examples"),
    "labels from 1": ((X, Y + 1), "0 ... 2"),
    "one-hot labels": (pairs(X, np.eye(3)[Y]).batch(8), "one-hot"),
    "another size": (pairs(X[:, :4], Y).batch(8), r"\(8, 4\), and the student takes \(None, 5\)"),
}


class Steps(keras.callbacks.Callback):
    count = 0

    def on_train_batch_end(self, batch, logs=None):
        Steps.count += 1


@pytest.mark.parametrize("kind", UNUSABLE)
def test_unusable_validation_data_is_refused_before_training(kind):
    data, message = UNUSABLE[kind]
    distiller = kd.Distiller(network(6), network(4), kd.losses.KLDivergence())
    distiller.compile("sgd", SparseCE(from_logits=True))
    Steps.count = 0
    with pytest.raises(ValueError, match=rf"(?s)^In `validation_data`: .*{message}"):
        distiller.fit(X, Y, validation_data=data, verbose=0, callbacks=[Steps()])
    with pytest.raises(ValueError, match=r"^In `validation_data`"):
        distiller.fit(X, Y, 8, 1, 0, [Steps()], 0.0, data)
    with pytest.raises(ValueError, match=r"^In `validation_data`"):
        kd.compress(distiller, (X, Y), validation_data=data, stages=[kd.Prune(0.5, epochs=1)])
    peers = kd.MutualDistiller([network(4), network(6)], kd.losses.KLDivergence())
    peers.compile("sgd", SparseCE(from_logits=True))
    with pytest.raises(ValueError, match=r"^In `validation_data`"):
        peers.fit(X, Y, validation_data=data, verbose=0, callbacks=[Steps()])
    assert Steps.count == 0


@pytest.mark.parametrize("kind", ["arrays", "with weights", "without labels", "generator"])
def test_other_validation_data_is_left_alone(kind):
    data = {
        "arrays": (X, Y),
        "with weights": (X, Y, np.ones(32)),
        "without labels": pairs(X, Y).batch(8).map(lambda x, y: x),
        "generator": ((X[:8], Y[:8]) for _ in range(2)),
    }[kind]
    distiller = kd.Distiller(network(6), network(4), kd.losses.KLDivergence())
    distiller.compile("sgd", SparseCE(from_logits=True))
    if kind == "without labels":
        distiller.check_validation(data)
        return
    history = distiller.fit(X, Y, validation_data=data, verbose=0).history
    assert np.isfinite(history["val_loss"]).all()


# Labels


def test_unlabeled_examples_count_in_the_distillation_alone():
    teacher, student = network(6), network(4)
    x, y = examples()
    y[::2] = -1
    logits = student(x).numpy()
    labeled = -log_softmax(logits)[np.arange(32), y][1::2].mean()
    t, s = (log_softmax(out / 4.0) for out in (teacher(x).numpy(), logits))
    everywhere = 16 * (np.exp(t) * (t - s)).sum(-1).mean()
    distiller = kd.Distiller(teacher, student, kd.losses.KLDivergence())
    distiller.compile(keras.optimizers.SGD(0.0), SparseCE(from_logits=True, ignore_class=-1))
    logs = distiller.fit(x, y, batch_size=32, verbose=0).history
    assert logs["student_loss"][0] == pytest.approx(labeled, rel=1e-5)
    assert logs["distillation_loss"][0] == pytest.approx(everywhere, rel=1e-4)


def test_a_batch_without_any_label_trains_on_the_teacher():
    student = network(4)
    x, _ = examples()
    distiller = kd.Distiller(network(6), student, kd.losses.KLDivergence())
    distiller.compile("sgd", SparseCE(from_logits=True, ignore_class=-1))
    logs = distiller.fit(x, np.full(32, -1), batch_size=32, verbose=0).history
    assert logs["student_loss"][0] == 0.0
    assert logs["loss"][0] == pytest.approx(0.5 * logs["distillation_loss"][0], rel=1e-5)
    assert all(np.isfinite(weight).all() for weight in student.get_weights())


def test_unlabeled_examples_are_refused_where_the_loss_does_not_ignore_them():
    x, y = examples()
    y[3] = -1
    distiller = kd.Distiller(network(6), network(4), kd.losses.KLDivergence())
    distiller.compile("sgd", SparseCE(from_logits=True))
    with pytest.raises(ValueError, match=r"holds -1.*ignore_class=-1"):
        distiller.fit(x, y, verbose=0)


@pytest.mark.parametrize("as_dataset", [False, True])
def test_data_without_labels(as_dataset):
    x, _ = examples(64)
    data = tf.data.Dataset.from_tensor_slices(x).batch(32) if as_dataset else x
    distiller = kd.Distiller(
        network(6), network(4), [kd.losses.KLDivergence(1.0), kd.Hint("hidden", "hidden")], None, 0
    )
    distiller.compile(keras.optimizers.Adam(0.05))
    losses = distiller.fit(data, epochs=10, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]


def test_generators_are_looked_at_and_read_in_full():
    class Student(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden = keras.layers.Dense(4, name="hidden")
            self.last = keras.layers.Dense(3)

        def call(self, x, training=None):
            return self.last(self.hidden(x))

    x, y = examples()
    yielded = []

    def batches(labels):
        for i in range(0, 32, 8):
            yielded.append(i)
            yield x[i : i + 8], labels[i : i + 8]

    distiller = kd.Distiller(
        network(6), Student(), [kd.losses.KLDivergence(), kd.Hint("hidden", "hidden")]
    )
    distiller.compile("sgd", SparseCE(from_logits=True))
    distiller.fit(batches(y), verbose=0)
    assert yielded == [0, 8, 16, 24]
    with pytest.raises(ValueError, match=r"0 \.\.\. 2.*holds 1[0-2]"):
        distiller.fit(batches(y + 10), verbose=0)


def test_missing_labels_are_refused_where_they_weigh():
    x, _ = examples()
    distiller = kd.Distiller(network(6), network(4), kd.losses.KLDivergence())
    distiller.compile("sgd", SparseCE(from_logits=True))
    with pytest.raises(ValueError, match=r"no labels.*student_loss_weight=0\.0"):
        distiller.fit(x, verbose=0)
    with pytest.raises(ValueError, match=r"no labels.*student_loss_weight=0\.0"):
        distiller.train_on_batch(x)


# Precision


def updates(under_policy, weight, rate):
    """Return by how much one step of a student of a policy changes its first kernel."""
    keras.utils.set_random_seed(3)
    teacher = network(6, "teacher")
    with under_policy:
        student = network(4, "student")
    before = student.get_layer("hidden").kernel.numpy()
    distiller = kd.Distiller(teacher, student, [kd.losses.KLDivergence()], [weight], 0.0)
    distiller.compile(keras.optimizers.SGD(rate))
    x, _ = examples()
    distiller.fit(x, batch_size=32, verbose=0, shuffle=False)
    return distiller, student.get_layer("hidden").kernel.numpy() - before


def test_small_gradients_of_a_float16_student_do_not_vanish(dtype_policy):
    # Unscaled, a gradient of some 1e-9 is zero in float16.
    distiller, change = updates(dtype_policy("mixed_float16"), 1e-8, 1e6)
    _, expected = updates(dtype_policy("float32"), 1e-8, 1e6)
    assert isinstance(distiller.optimizer, keras.optimizers.LossScaleOptimizer)
    np.testing.assert_allclose(change, expected, atol=0.02 * np.abs(expected).max())


def test_bfloat16_needs_no_loss_scale(dtype_policy):
    distiller, change = updates(dtype_policy("mixed_bfloat16"), 1.0, 0.1)
    _, expected = updates(dtype_policy("float32"), 1.0, 0.1)
    assert isinstance(distiller.optimizer, keras.optimizers.SGD)
    np.testing.assert_allclose(change, expected, atol=0.05 * np.abs(expected).max())


def test_loss_scale_can_be_left_out_and_stays_when_given(dtype_policy):
    with dtype_policy("mixed_float16"):
        student = network(4)
    distiller = kd.Distiller(network(6), student, kd.losses.KLDivergence(), None, 0.0)
    distiller.compile("sgd", auto_scale_loss=False)
    assert isinstance(distiller.optimizer, keras.optimizers.SGD)
    own = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    distiller.compile(own)
    assert distiller.optimizer is own


def test_without_labels_the_metrics_are_those_of_the_validation_data():
    x, y = examples()
    distiller = kd.Distiller(network(6), network(4), kd.losses.KLDivergence(), None, 0.0)
    distiller.compile("adam", SparseCE(from_logits=True), metrics=["accuracy"])
    unlabeled = tf.data.Dataset.from_tensor_slices(x).batch(8)
    logs = distiller.fit(unlabeled, validation_data=(x, y), epochs=2, verbose=0).history
    assert "accuracy" not in logs and len(logs["val_accuracy"]) == 2
    assert distiller.evaluate(x, y, verbose=0, return_dict=True)["accuracy"] == pytest.approx(
        logs["val_accuracy"][-1]
    )


def test_half_precision_student_with_hint_regularizer_and_schedule(dtype_policy):
    with dtype_policy("mixed_float16"):
        student = network(4, "student")
    student.get_layer("hidden").activity_regularizer = keras.regularizers.L2(0.1)
    schedule = keras.optimizers.schedules.PolynomialDecay(1.0, 4, 0.0)
    distiller = kd.Distiller(
        network(6),
        student,
        [kd.losses.KLDivergence(), kd.Hint("hidden", "hidden")],
        [schedule, 1.0],
    )
    distiller.compile("adam", SparseCE(from_logits=True))
    logs = distiller.fit(*examples(), epochs=3, verbose=0).history
    assert np.isfinite(logs["loss"]).all()
    weighted = 0.5 * logs["student_loss"][0] + 0.5 * logs["distillation_loss"][0]
    assert logs["loss"][0] > weighted


def test_activity_regularizers_count_once_a_step():
    student = network(4)
    student.get_layer("hidden").activity_regularizer = keras.regularizers.L2(0.1)
    distiller = kd.Distiller(network(6), student, kd.losses.KLDivergence())
    distiller.compile(keras.optimizers.SGD(0.0), SparseCE(from_logits=True), run_eagerly=True)
    x, y = examples()
    hidden = keras.Model(student.input, student.get_layer("hidden").output)(x).numpy()
    penalty = 0.1 * np.sum(hidden**2) / 32
    logs = distiller.fit(x, y, epochs=2, batch_size=32, verbose=0).history
    for epoch in range(2):
        total = 0.5 * logs["student_loss"][epoch] + 0.5 * logs["distillation_loss"][epoch]
        assert logs["loss"][epoch] == pytest.approx(total + penalty, rel=1e-4)


# Clipping


def test_gradients_are_clipped_by_the_optimizer():
    x, y = examples()
    students = []
    for optimizer in (keras.optimizers.SGD(1.0), keras.optimizers.SGD(1.0, global_clipnorm=0.01)):
        keras.utils.set_random_seed(5)
        teacher, student = network(6), network(4)
        before = student.get_weights()
        distiller = kd.Distiller(teacher, student, kd.losses.KLDivergence())
        distiller.compile(optimizer, SparseCE(from_logits=True))
        distiller.fit(x, y, batch_size=32, verbose=0)
        students.append([b - a for a, b in zip(before, student.get_weights(), strict=True)])
    norm = np.sqrt(sum(np.sum(change**2) for change in students[0]))
    for free, clipped in zip(*students, strict=True):
        np.testing.assert_allclose(clipped, free * 0.01 / norm, rtol=1e-3, atol=1e-7)


def test_data_sets_are_trained_on_without_a_warning():
    distiller = kd.Distiller(network(6), network(4), kd.losses.KLDivergence())
    distiller.compile("sgd", SparseCE(from_logits=True))
    dataset = tf.data.Dataset.from_tensor_slices(examples()).batch(8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distiller.fit(dataset, verbose=0)


def test_indices_alone_are_no_labels():
    hint = kd.Hint("hidden", "hidden", loss=kd.losses.CRD(32, negatives=8, dimension=4, seed=0))
    distiller = kd.Distiller(network(6), network(4), hint)
    distiller.compile("sgd", SparseCE(from_logits=True), metrics=["accuracy"])
    with pytest.raises(ValueError, match="the data holds no labels"):
        distiller.fit(X, {"index": np.arange(32)}, verbose=0)
    distiller = kd.Distiller(network(6), network(4), hint, student_loss_weight=0.0)
    distiller.compile("sgd", SparseCE(from_logits=True), metrics=["accuracy"])
    assert "accuracy" not in distiller.fit(X, {"index": np.arange(32)}, verbose=0).history


def teaching():
    distiller = kd.Distiller(network(4), network(2), kd.losses.KLDivergence())
    distiller.compile("sgd", SparseCE(from_logits=True))
    return distiller


@pytest.mark.parametrize("row", [3, 31])
def test_the_place_of_a_wrong_number_is_that_in_the_data(row):
    x, y = examples()
    x[row, 2] = np.nan
    with pytest.raises(ValueError, match=rf"of the input must be finite.*nan at \[{row}, 2\]"):
        teaching().fit(x, y)


def test_labels_that_are_no_numbers_are_refused():
    x, y = examples()
    for labels in (y.astype(str), y.astype(object)):
        with pytest.raises(ValueError, match=r"Labels must be numbers\. Received: labels of type"):
            teaching().fit(x, labels)


def test_labels_inside_of_a_dictionary_are_told():
    x, y = examples()
    data = tf.data.Dataset.from_tensor_slices({"image": x, "label": y}).batch(8)
    with pytest.raises(ValueError, match=r"keys \['image', 'label'\].*as_supervised=True"):
        teaching().fit(data)


@pytest.mark.parametrize("loss", ["mse", "mae", "binary_crossentropy", keras.losses.Huber()])
def test_class_numbers_are_refused_where_shapes_must_be_equal(loss):
    x, y = examples()
    distiller = kd.Distiller(network(4), network(2), kd.losses.KLDivergence())
    distiller.compile("sgd", loss)
    with pytest.raises(ValueError, match=r"of equal shape.*SparseCategoricalCrossentropy"):
        distiller.fit(x, y)
    with pytest.raises(ValueError, match="of equal shape"):
        distiller.fit(x, np.stack([y, y], 1))
    distiller.fit(x, np.eye(3)[y], verbose=0)
