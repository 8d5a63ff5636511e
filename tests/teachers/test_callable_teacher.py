import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.teachers.callable_teacher import CallableTeacher, as_teacher, supports_jit

SparseCE = keras.losses.SparseCategoricalCrossentropy


def network(units, name, outputs=1):
    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(units, activation="relu", name="hidden")(inputs)
    ends = [keras.layers.Dense(3)(hidden) for _ in range(outputs)]
    return keras.Model(inputs, ends[0] if outputs == 1 else ends, name=name)


def examples():
    rng = np.random.default_rng(0)
    return rng.normal(size=(32, 5)).astype("float32"), rng.integers(0, 3, 32)


def trained(teacher, **arguments):
    keras.utils.set_random_seed(1)
    student = network(4, "student")
    distiller = kd.Distiller(teacher, student, kd.losses.KLDivergence(2.0), **arguments)
    distiller.compile(keras.optimizers.SGD(0.1), SparseCE(from_logits=True), metrics=["accuracy"])
    x, y = examples()
    distiller.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
    return distiller


@pytest.fixture(scope="module")
def teacher():
    keras.utils.set_random_seed(0)
    return network(8, "teacher")


@pytest.fixture(scope="module")
def expected(teacher):
    return trained(teacher).student.get_weights()


def a_function(teacher, tmp_path):
    return lambda x: teacher(x)


def a_saved_layer(teacher, tmp_path):
    teacher.export(tmp_path / "model", verbose=False)
    return keras.layers.TFSMLayer(tmp_path / "model", call_endpoint="serving_default")


def a_dictionary(teacher, tmp_path):
    return lambda x: {"logits": teacher(x)}


def a_numpy_function(teacher, tmp_path):
    def run(x):
        return tf.ensure_shape(
            tf.numpy_function(lambda v: teacher(v).numpy(), [x], x.dtype), [None, 3]
        )

    return run


@pytest.mark.parametrize("make", [a_function, a_saved_layer, a_dictionary, a_numpy_function])
def test_every_callable_teaches_as_the_model_does(make, teacher, expected, tmp_path):
    given = make(teacher, tmp_path)
    distiller = trained(given)
    for a, b in zip(expected, distiller.student.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert distiller.teacher is given


@pytest.mark.promise
def test_evaluation_compression_and_saving_work_with_a_function(teacher, tmp_path):
    distiller = trained(a_function(teacher, tmp_path))
    x, y = examples()
    distiller.compile("sgd", SparseCE(from_logits=True), evaluate_distillation=True)
    results = distiller.evaluate(x, y, verbose=0, return_dict=True)
    value = kd.losses.KLDivergence(2.0)(teacher(x), distiller.student(x))
    assert results["distillation_loss"] == pytest.approx(float(value), rel=1e-4)
    compressed = kd.compress(distiller, (x, y), stages=[kd.Prune(0.5, epochs=1)], verbose=0)
    assert compressed.layers[1].sparsity == pytest.approx(0.5)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    assert loaded.teacher is None
    loaded.teacher = lambda x: teacher(x)
    loaded.fit(x, y, verbose=0)


def test_adapters_stand_around_a_function(teacher, expected):
    half = lambda x: {"logits": teacher(2.0 * x)}  # noqa: E731
    adapters = {"teacher_inputs": lambda x: x / 2.0, "teacher_outputs": lambda z: z + 0.0}
    for a, b in zip(expected, trained(half, **adapters).student.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_training_is_false_where_it_can_be_said():
    seen = []

    def teacher(x, training=True):
        seen.append(training)
        return x

    CallableTeacher(teacher)(tf.ones((1, 2)), training=True)
    CallableTeacher(functools.partial(teacher, training=True))(tf.ones((1, 2)))
    CallableTeacher(keras.layers.Dropout(0.5))(tf.ones((1, 2)))
    assert seen == [False, True]


def test_the_structure_of_several_outputs_is_kept():
    outputs = CallableTeacher(lambda x: {"a": x, "b": [x, 2 * x]})(np.ones((2, 3), "float32"))
    np.testing.assert_array_equal(outputs["b"][1], 2 * np.ones((2, 3)))


def test_a_dictionary_of_one_stays_one_for_a_student_that_returns_one(teacher):
    inputs = keras.Input((5,))
    student = keras.Model(inputs, {"logits": keras.layers.Dense(3)(inputs)})
    distiller = kd.Distiller(
        lambda x: {"logits": teacher(x)},
        student,
        {"logits": kd.losses.KLDivergence()},
        student_loss_weight=0.0,
    )
    distiller.compile("sgd")
    history = distiller.fit(examples()[0], verbose=0).history
    assert history["distillation_loss"][0] > 0


@pytest.mark.promise
def test_a_student_can_be_taught_by_its_own_last_exit():
    inputs = keras.Input((5,))
    early = keras.layers.Dense(8, activation="relu")(inputs)
    late = keras.layers.Dense(8, activation="relu")(early)
    exits = [keras.layers.Dense(3)(early), keras.layers.Dense(3)(late)]
    student = keras.Model(inputs, exits)
    distiller = kd.Distiller(
        lambda x: [student(x, training=False)[-1]] * 2,
        student,
        [[kd.losses.KLDivergence(), None]],
        student_loss_weight=0.0,
    )
    distiller.compile(keras.optimizers.Adam(0.05))
    before = [v.numpy() for v in student.layers[-1].weights]
    history = distiller.fit(examples()[0], epochs=20, verbose=0).history["distillation_loss"]
    assert history[-1] < 0.1 * history[0]
    for value, variable in zip(before, student.layers[-1].weights, strict=True):
        np.testing.assert_array_equal(value, variable)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ("teacher.tflite", r"Received: the str.*keras_kd\.teachers\.load\('teacher\.tflite'\)"),
        (keras.Sequential, r"the class Sequential.*Sequential\(\.\.\.\)"),
        ([lambda x: x], r"Received: list.*Ensemble\(\[\.\.\.\]\)"),
    ],
)
def test_what_is_no_teacher_is_refused(teacher, message):
    with pytest.raises(ValueError, match=message):
        kd.Distiller(teacher, network(4, "student"), kd.losses.KLDivergence())


def test_a_hint_at_a_function_is_refused_with_the_reason(teacher):
    def my_teacher(x):
        return teacher(x)

    losses = [kd.losses.KLDivergence(), kd.Hint("hidden", "hidden")]
    with pytest.raises(
        ValueError, match=r"'my_teacher' has no layer 'hidden'.*outputs but no inner layers"
    ):
        kd.Distiller(my_teacher, network(4, "student"), losses)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: np.asarray(x)[:, :3], "needs the numbers.*tf.numpy_function"),
        (lambda x: x.numpy()[:, :3], "needs the numbers"),
        (lambda x: x[:, :3] if tf.reduce_sum(x) > 0 else x[:, 1:4], "needs the numbers"),
        (lambda x: tf.numpy_function(lambda v: v[:, :3], [x], tf.float32), "unknown shape"),
        (lambda x: object(), "returned object, but a tensor"),
        (lambda x: x[:, :4], r"shape \(4,\).*student's \(3,\)"),
        (lambda x: keras.ops.softmax(x[:, :3]), "teacher ends in softmax"),
    ],
)
def test_functions_that_cannot_teach_are_refused_before_training(function, message):
    student = network(4, "student")
    distiller = kd.Distiller(function, student, kd.losses.KLDivergence())
    distiller.compile("sgd", SparseCE(from_logits=True))
    before = student.get_weights()
    with pytest.raises(ValueError, match=message):
        distiller.fit(*examples(), verbose=0)
    for a, b in zip(before, student.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_xla_is_left_alone_where_it_may_not_compile_the_teacher(teacher):
    assert supports_jit(None)
    assert supports_jit(teacher)
    assert not supports_jit(as_teacher(lambda x: x))
    assert supports_jit(as_teacher(keras.layers.Dense(3)))
