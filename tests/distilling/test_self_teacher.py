from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_kd as kd

X = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
Y = np.array([0, 1, 1, 0, 1, 0, 0, 1])


def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((3,)), keras.layers.BatchNormalization(), keras.layers.Dense(2)]
    )


class Recorded(keras.callbacks.Callback):
    """The weights of the student after every step, and of the teacher before it."""

    def __init__(self, student, teacher):
        super().__init__()
        self.models = student, teacher
        self.students, self.teachers = [], []

    def on_train_batch_begin(self, batch, logs=None):
        self.teachers.append(self.models[1].get_weights())

    def on_train_batch_end(self, batch, logs=None):
        self.students.append(self.models[0].get_weights())


def run(momentum, epochs=2):
    student = network()
    self_teacher = kd.SelfTeacher(student, momentum)
    distiller = kd.Distiller(self_teacher.teacher, student, kd.losses.SoftCrossEntropy(1.0))
    distiller.compile(
        keras.optimizers.SGD(0.5), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    recorded = Recorded(student, self_teacher.teacher)
    first = student.get_weights()
    distiller.fit(
        X, Y, batch_size=4, epochs=epochs, shuffle=False, verbose=0,
        callbacks=[self_teacher, recorded],
    )  # fmt: skip
    return distiller, self_teacher, first, recorded


def test_the_teacher_is_the_exponential_average_of_the_student():
    _, self_teacher, first, recorded = run(0.9)
    mean = [w.astype("d") for w in first]
    for step, (teacher, student) in enumerate(
        zip(recorded.teachers, recorded.students, strict=True)
    ):
        for got, expected in zip(teacher, mean, strict=True):
            np.testing.assert_allclose(got, expected, atol=1e-6, err_msg=str(step))
        mean = [0.9 * m + 0.1 * s for m, s in zip(mean, student, strict=True)]
    np.testing.assert_allclose(self_teacher.teacher.get_weights()[-2], mean[-2], atol=1e-6)
    assert np.abs(recorded.students[-1][-2] - first[-2]).max() > 0.05


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "mixed_bfloat16"])
@pytest.mark.parametrize("momentum", [0.9, 0.999])
def test_the_average_moves_in_half_precision_too(dtype, momentum):
    keras.utils.set_random_seed(0)
    student = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, dtype=dtype)])
    average = kd.SelfTeacher(student, momentum)
    first = [np.array(keras.ops.cast(w, "float64")) for w in student.weights]
    average.on_train_batch_begin(0)
    for weight in student.weights:
        weight.assign(weight + 0.5)
    later = [np.array(keras.ops.cast(w, "float64")) for w in student.weights]
    for step in range(300):
        average.on_train_batch_end(step)
    for mean, before, after in zip(average.teacher.weights, first, later, strict=True):
        expected = after + momentum**300 * (before - after)
        np.testing.assert_allclose(keras.ops.cast(mean, "float64"), expected, rtol=5e-3, atol=1e-4)


def test_without_momentum_it_is_the_student_of_the_epoch_before():
    _, _, first, recorded = run(None)
    for step, expected in ((0, first), (1, first), (2, recorded.students[1])):
        for got, w in zip(recorded.teachers[step], expected, strict=True):
            np.testing.assert_array_equal(got, w)


def test_the_moving_teacher_is_what_teaches():
    """The loss of the second epoch is computed with the student of the first."""
    distiller, self_teacher, _, recorded = run(None, epochs=1)
    self_teacher.teacher.set_weights(recorded.students[-1])
    logits = distiller.student(X, training=False).numpy()
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    distiller.compile(keras.optimizers.SGD(0.0), evaluate_distillation=True, loss="mse")
    logs = distiller.evaluate(X, logits, return_dict=True, verbose=0)
    assert logs["distillation_loss"] == pytest.approx(-(p * np.log(p)).sum(-1).mean(), rel=1e-4)


def test_the_average_goes_on_in_a_second_fit():
    distiller, self_teacher, _, _ = run(0.9)
    before = self_teacher.teacher.get_weights()
    distiller.fit(X, Y, batch_size=8, epochs=1, verbose=0, callbacks=[self_teacher])
    student = distiller.student.get_weights()
    for got, old, new in zip(self_teacher.teacher.get_weights(), before, student, strict=True):
        np.testing.assert_allclose(got, 0.9 * old + 0.1 * new, atol=1e-6)


def test_refuses_wrong_arguments():
    with pytest.raises(ValueError, match=r"copies a built keras\.Model"):
        kd.SelfTeacher(keras.Sequential([keras.layers.Dense(2)]))
    with pytest.raises(ValueError, match="SelfTeacher: `momentum`"):
        kd.SelfTeacher(network(), 1.0)


@pytest.mark.parametrize("momentum", [None, 0.9])
@pytest.mark.parametrize("first", [True, False])
def test_a_resumed_training_starts_at_the_student_that_was_restored(tmp_path, momentum, first):
    def fit(epochs):
        student = network()
        self_teacher = kd.SelfTeacher(student, momentum)
        distiller = kd.Distiller(self_teacher.teacher, student, kd.losses.SoftCrossEntropy(1.0))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile(keras.optimizers.SGD(0.5), loss)
        backup = kd.BackupAndRestore(tmp_path, delete_checkpoint=False)
        recorded = Recorded(student, self_teacher.teacher)
        callbacks = [self_teacher, backup] if first else [backup, self_teacher]
        distiller.fit(
            X, Y, batch_size=4, epochs=epochs, shuffle=False, verbose=0,
            callbacks=[*callbacks, recorded],
        )  # fmt: skip
        return recorded

    trained = fit(1).students[-1]
    for teacher, student in zip(fit(2).teachers[0], trained, strict=True):
        np.testing.assert_array_equal(teacher, student)


def test_the_copy_has_what_adapt_learned():
    """`Normalization` computes with a mean that is not one of its weights."""
    first = keras.layers.Normalization()
    first.adapt(5.0 + 3.0 * X)
    inner = keras.Sequential([keras.Input((3,)), first, keras.layers.Dense(2)])
    for student in (inner, keras.Sequential([keras.Input((3,)), inner])):
        teacher = kd.SelfTeacher(student).teacher
        np.testing.assert_allclose(teacher(X), student(X), atol=1e-6)
        assert not teacher.trainable_weights and student.trainable_weights


class OwnLoss(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return keras.ops.mean(y_true - y_pred, -1)


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(2)

    def call(self, x):
        return self.dense(x)

    def get_config(self):
        return {"name": self.name}


@pytest.mark.parametrize("kind", ["sequential", "functional", "subclassed"])
@pytest.mark.parametrize(
    "loss", [OwnLoss(), lambda y_true, y_pred: y_pred], ids=["class", "lambda"]
)
def test_a_student_compiled_with_a_loss_of_its_own(kind, loss):
    student = Subclassed() if kind == "subclassed" else network()
    if kind == "functional":
        student = keras.Model(student.inputs[0], student.outputs[0])
    student.compile("sgd", loss)
    expected = student(X)
    teacher = kd.SelfTeacher(student).teacher
    np.testing.assert_array_equal(teacher(X), expected)
    assert type(teacher) is type(student) and student.compiled and not teacher.compiled
