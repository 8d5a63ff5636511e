"""No teacher is trained, and no weights that are not finite."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.models.weights import check_apart, check_finite_weights, models_in

LOSS = kd.losses.KLDivergence(4.0)
CROSSENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
X, Y = np.ones((8, 4), "float32"), np.zeros(8, "int32")


def network(name=None):
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name=name)])


@pytest.fixture
def pair():
    """A teacher and a student on one trunk."""
    inputs = keras.Input((4,))
    trunk = keras.layers.Dense(6, name="trunk")(inputs)
    return [keras.Model(inputs, keras.layers.Dense(3)(trunk)) for _ in range(2)]


class Wrapped:
    def __init__(self, model, other=None):
        self.model, self.other = model, other

    def __call__(self, x):
        return self.model(x)

    def answer(self, x):
        return self.model(x)


class Served(tf.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def __call__(self, x):
        return self.model(x)


def inner(x):
    return GLOBAL(x)


WAYS = {
    "model": lambda model: model,
    "lambda": lambda model: lambda x: model(x),
    "default": lambda model: lambda x, m=model: m(x),
    "partial": lambda model: functools.partial(lambda m, x: m(x), model),
    "object": Wrapped,
    "method": lambda model: Wrapped(model).answer,
    "bound call": lambda model: model.call,
    "module": Served,
    "ensemble": lambda model: kd.teachers.Ensemble([network(), lambda x: model(x)]),
    "nested": lambda model: lambda x: Wrapped(model)(x),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_student_that_shares_a_layer_with_its_teacher_is_refused(pair, way):
    teacher, student = pair
    with pytest.raises(ValueError, match="'trunk'"):
        kd.Distiller(way(teacher), student, LOSS)
    kd.Distiller(way(network()), student, LOSS)


@pytest.mark.parametrize(
    "way", [lambda m: m, Wrapped, lambda m: m.call, lambda m: kd.teachers.Ensemble([m, network()])]
)
def test_a_student_is_not_its_own_teacher(way):
    student = network()
    with pytest.raises(ValueError, match=r"student.*is the teacher"):
        kd.Distiller(way(student), student, LOSS)


def test_a_function_may_run_the_student_itself():
    student = network()
    kd.Distiller(lambda x: student(x, training=False), student, LOSS)


def test_a_model_that_a_function_reads_as_a_global_is_found(pair):
    global GLOBAL
    GLOBAL = pair[0]
    assert models_in(lambda x: inner(x)) == [pair[0]]
    with pytest.raises(ValueError, match="'trunk'"):
        kd.Distiller(inner, pair[1], LOSS)


def test_an_object_that_holds_the_student_beside_the_teacher_is_taken(pair):
    teacher = Wrapped(network(), other=pair[1])
    kd.Distiller(teacher, pair[1], LOSS)
    kd.Distiller(teacher.answer, pair[1], LOSS)


def test_adapters_and_teachers_set_later_are_looked_at(pair):
    teacher, student = pair
    with pytest.raises(ValueError, match="'trunk'"):
        kd.Distiller(network(), student, LOSS, teacher_outputs=lambda y: y, teacher_inputs=None
                     ).teacher = teacher  # fmt: skip
    with pytest.raises(ValueError, match="'trunk'"):
        kd.Distiller(network(), student, LOSS, teacher_outputs=lambda y: y + teacher(X[:1]))


def test_peers_chains_and_generations_are_kept_apart(pair):
    with pytest.raises(ValueError, match="'trunk'"):
        kd.MutualDistiller(pair, LOSS)
    with pytest.raises(ValueError, match="'trunk'"):
        kd.teachers.chain([network(), *pair], lambda teacher, student: None)
    with pytest.raises(ValueError, match="'trunk'"):
        kd.teachers.born_again(pair[0], lambda: pair[1], 1, lambda teacher, student: None)


def test_layers_that_are_built_late_are_looked_at_before_training():
    class Late(keras.Model):
        def __init__(self, trunk):
            super().__init__()
            self.trunk, self.head = trunk, keras.layers.Dense(3)

        def call(self, x):
            return self.head(self.trunk(x))

    trunk = keras.layers.Dense(6, name="trunk")
    distiller = kd.Distiller(Late(trunk), Late(trunk), LOSS)
    distiller.compile("sgd", loss=CROSSENTROPY)
    with pytest.raises(ValueError, match="trunk"):
        distiller.fit(X, Y, verbose=0)


def test_statistics_of_a_normalization_may_be_shared():
    norm = keras.layers.Normalization()
    norm.adapt(X)
    models = [keras.Sequential([keras.Input((4,)), norm, keras.layers.Dense(3)]) for _ in range(2)]
    check_apart(*models)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_named(value, tmp_path):
    def spoilt():
        model = network("spoilt")
        kernel, bias = model.get_weights()
        kernel[0, 1] = value
        model.set_weights([kernel, bias])
        return model

    for models in ([spoilt(), network()], [network(), spoilt()]):
        distiller = kd.Distiller(*models, LOSS)
        distiller.compile("sgd", loss=CROSSENTROPY)
        mutual = kd.MutualDistiller(models, LOSS)
        mutual.compile("sgd", loss=CROSSENTROPY)
        for call in (
            lambda d=distiller: d.fit(X, Y, verbose=0),
            lambda d=distiller: kd.compress(d, (X, Y), stages=[kd.Prune(0.5)], verbose=0),
            lambda d=mutual: d.fit(X, Y, verbose=0),
        ):
            with pytest.raises(ValueError, match="spoilt/kernel'"):
                call()
    with pytest.raises(ValueError, match="spoilt/kernel'"):
        kd.export_tflite(spoilt(), tmp_path / "m.tflite", verbose=False)
    with pytest.raises(ValueError, match="spoilt/kernel'"):
        kd.teachers.cache(spoilt(), (X, Y), tmp_path / "cache")
    with pytest.raises(ValueError, match="spoilt/kernel'"):
        kd.shrink(spoilt(), 0.5)
    with pytest.raises(ValueError, match="spoilt/kernel'"):
        check_finite_weights(WAYS["default"](spoilt()), "teacher")
    plain = spoilt()
    plain.compile("sgd", loss=CROSSENTROPY)
    with pytest.raises(ValueError, match="spoilt/kernel'"):
        plain.fit(X, Y, callbacks=[kd.Prune(0.5).as_callback()], verbose=0)


def test_a_model_without_numbers_that_are_not_finite_passes():
    check_finite_weights(network(), "teacher")
    check_finite_weights(lambda x: x, "teacher")
