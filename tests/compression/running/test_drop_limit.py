import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.compression.running.drop_limit import check_direction, drop_of, evaluate_teacher
from keras_kd.compression.running.stage_runs import StageRuns

IDS = np.array([[1, 2, 3, 0, 0], [2, 1, 0, 0, 0]])
LABELS = np.where(IDS == 0, 1, IDS % 3)  # wrong at every position of padding
OUTPUTS = np.eye(3, dtype="float32")[IDS % 3] * 5 - 1


@pytest.fixture
def student():
    i = keras.Input((5,), dtype="int32")
    hidden = keras.layers.Embedding(4, 3, mask_zero=True)(i)
    return keras.Model(i, keras.layers.Dense(3)(hidden))


@pytest.mark.parametrize("kind", ["function", "brought along", "masked model"])
def test_a_teacher_is_measured_where_the_student_is(student, kind):
    teacher = {
        "function": lambda ids: tf.one_hot(ids % 3, 3) * 5.0 - 1.0,
        "brought along": None,
        "masked model": keras.models.clone_model(student),
    }[kind]
    x = kd.teachers.TaughtInputs(IDS, OUTPUTS) if teacher is None else IDS
    if kind == "masked model":
        weights = np.eye(3, dtype="float32")
        teacher.set_weights([weights[np.arange(4) % 3], weights, np.zeros(3)])
    distiller = kd.Distiller(teacher, student, kd.losses.KLDivergence())
    distiller.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    distiller.evaluate(x, LABELS, verbose=0)
    data = tf.data.Dataset.from_tensors((x, LABELS))
    assert evaluate_teacher(distiller, data)["accuracy"] == 1.0


def own_error(y, y_pred):
    return keras.ops.abs(y - y_pred)


@pytest.mark.parametrize(
    ("metric", "drop", "limited"),
    [
        ("mae", 100.0, 100.0),  # the error grew by 1
        (keras.metrics.RootMeanSquaredError(name="mae"), 100.0, 100.0),
        (keras.metrics.FalseNegatives(name="mae"), 100.0, 100.0),
        (keras.metrics.R2Score(name="mae"), -100.0, -100.0),
        (own_error, None, -100.0),
    ],
)
def test_points_are_lost_where_less_is_better_and_there_is_more(metric, drop, limited):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=[metric])
    x = np.ones((4, 1), "float32")
    model.evaluate(x, x, verbose=0)
    used = next(m for m in model.metrics if hasattr(m, "metrics"))
    found = [drop_of({"mae": 3.0}, {"mae": 2.0}, used, given) for given in (False, True)]
    assert found == [drop, limited]


def test_a_metric_of_unknown_direction_is_told():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=[own_error])
    model.evaluate(np.ones((4, 1)), np.ones((4, 1)), verbose=0)
    used = next(m for m in model.metrics if hasattr(m, "metrics"))
    with pytest.warns(UserWarning, match=r"more of 'own_error' for better; Keras does not know"):
        check_direction(used, "own_error")


def test_a_metric_is_the_same_whatever_keras_calls_it():
    assert drop_of({"loss": 1.0, "auc_2": 0.5}, {"loss": 2.0, "auc": 0.75}) == 25.0
    assert drop_of({"accuracy": 0.5, "auc": 0.1}, {"auc": 0.9, "accuracy": 0.75}) == 25.0
    assert drop_of({"auc": 0.5}, {"accuracy": 0.75}) is None
    assert drop_of({"loss": 0.5}, {"loss": 0.75}) is None and drop_of({"auc": 0.5}, None) is None


def test_a_limit_without_a_reference_is_refused(tmp_path, monkeypatch):
    """A run that began with another metric does not go on as if it lost nothing."""
    x, y = np.random.default_rng(0).normal(size=(16, 3)).astype("float32"), np.arange(16) % 2

    def run(metric):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [keras.Input((3,)), keras.layers.Dense(2, name="logits")], name="student"
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, metrics=[metric])
        return kd.compress(
            model, (x, y), (x, y), stages=kd.Prune(0.9, epochs=1), max_drop=1.0, path=tmp_path,
            verbose=0,
        )  # fmt: skip

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(StageRuns, "_train", interrupt)
        run("accuracy")
    with pytest.raises(ValueError, match="the run began with other metrics"):
        run(keras.metrics.SparseTopKCategoricalAccuracy(1, name="top"))


def test_an_error_of_one_of_several_outputs_has_no_drop():
    x = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")
    inputs = keras.Input((3,))
    outputs = {name: keras.layers.Dense(1, name=name)(inputs) for name in "ab"}
    model = keras.Model(inputs, outputs)
    model.compile("adam", "mse", metrics={"a": ["mae"], "b": ["mae"]})
    data = x, {name: x[:, :1] for name in "ab"}
    with pytest.raises(ValueError, match="more is better, but the first one is 'a_mae'"):
        kd.compress(model, data, data, stages=kd.Prune(0.5, epochs=0), max_drop=1.0, verbose=0)
