"""What the data must not hold is named before training, or at the batch that holds it."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd

LOSS = kd.losses.KLDivergence(4.0)
CROSSENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(outputs=3):
    return keras.Sequential([keras.Input((4,), name="numbers"), keras.layers.Dense(outputs)])


def distiller(loss=CROSSENTROPY, teacher=None, outputs=3, **arguments):
    result = kd.Distiller(teacher or network(outputs), network(outputs), LOSS)
    result.compile("sgd", loss=loss, **arguments)
    return result


def mutual():
    result = kd.MutualDistiller([network(), network()], LOSS)
    result.compile("sgd", loss=CROSSENTROPY)
    return result


def compressed(x, y, *weights):
    d = distiller()
    return kd.compress(d, (x, y, *weights), stages=[kd.Prune(0.5, epochs=0)], verbose=0)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(80, 4)).astype("float32"), rng.integers(0, 3, 80)


FITS = {
    "fit": lambda *data: distiller().fit(*data[:2], sample_weight=data[2], verbose=0),
    "mutual": lambda *data: mutual().fit(*data[:2], sample_weight=data[2], verbose=0),
    "compress": compressed,
    "dataset": lambda *data: distiller().fit(
        tf.data.Dataset.from_tensor_slices(data).batch(80), verbose=0
    ),
    "validation": lambda x, y, w: distiller().fit(
        np.ones_like(x), y, validation_data=(x, y, w), verbose=0
    ),
}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_inputs_and_weights_that_are_not_finite_are_named(fit, value, data):
    x, y = data
    weights = np.ones(80, "float32")
    weights[70] = value
    with pytest.raises(ValueError, match="Sample weights must"):
        fit(x, y, weights)
    x[70, 2] = value
    with pytest.raises(ValueError, match="input 'numbers'"):
        fit(x, y, np.ones(80, "float32"))


def test_outputs_of_the_teacher_that_are_not_finite_are_named(data):
    model = network()
    teachers = [lambda x: model(x) * np.inf, lambda x: tf.math.log(model(x) * 0.0)]
    for teacher in teachers:
        with pytest.raises(ValueError, match="teacher's outputs"):
            distiller(teacher=teacher).fit(*data, verbose=0)
    x, y = data
    outputs = np.zeros((80, 3), "float32")
    outputs[1, 1] = np.nan
    taught = tf.data.Dataset.from_tensor_slices((x, outputs, y)).batch(80)
    taught = taught.map(lambda x, o, y: (kd.teachers.TaughtInputs(x, o), y))
    with pytest.raises(ValueError, match="teacher's outputs in the data"):
        distiller().fit(taught, verbose=0)


def test_inputs_that_the_model_replaces_may_be_nan(data):
    x, y = data
    x[3, 2] = np.nan

    def cleaned():
        inputs = keras.Input((4,))
        known = keras.layers.Lambda(lambda x: tf.where(tf.math.is_nan(x), 0.0, x))(inputs)
        return keras.Model(inputs, keras.layers.Dense(3)(known))

    result = kd.Distiller(cleaned(), cleaned(), LOSS)
    result.compile("sgd", loss=CROSSENTROPY)
    assert np.isfinite(result.fit(x, y, verbose=0).history["loss"]).all()


@keras.saving.register_keras_serializable("test_data_refused")
class Known(keras.losses.Loss):
    """A loss that leaves out what is not known."""

    def call(self, y_true, y_pred):
        known = tf.math.is_finite(y_true)
        return tf.reduce_mean(
            tf.where(known, (tf.where(known, y_true, 0.0) - y_pred) ** 2, 0.0), -1
        )


def test_labels_that_are_not_finite_are_refused_or_warned_of(data):
    x, _ = data
    y = np.zeros((80, 3), "float32")
    y[40, 1] = np.nan
    with pytest.raises(ValueError, match="Labels must be finite"):
        distiller(keras.losses.MeanSquaredError()).fit(x, y, verbose=0)
    with pytest.warns(UserWarning, match="labels hold NaN"):
        history = distiller(Known()).fit(x, y, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_labels_that_are_not_whole_numbers_are_refused(data):
    x, y = data
    for fit in (distiller().fit, mutual().fit, lambda x, y, **_: compressed(x, y)):
        with pytest.raises(ValueError, match=r"label=0\.5"):
            fit(x, np.where(np.arange(80) == 60, 0.5, y), verbose=0)


class Sequence(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x) // 16

    def __getitem__(self, i):
        return self.x[16 * i : 16 * i + 16], self.y[16 * i : 16 * i + 16]


FORMS = {
    "dataset": lambda x, y: tf.data.Dataset.from_tensor_slices((x, y)).batch(16),
    "sequence": Sequence,
    "generator": lambda x, y: (Sequence(x, y)[i] for i in range(5)),
}


@pytest.mark.fast_cases("3-dataset-True", "-1-generator-False", "0.5-sequence-True")
@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("label", [3, -1, 0.5])
def test_a_label_out_of_range_behind_the_first_batch_is_a_sentence(form, jit, label, data):
    x, y = data
    y = y.astype("float32") if label == 0.5 else y
    y[50] = label
    student = distiller(jit_compile=jit)
    with pytest.raises(ValueError, match=f"label={label} after the first batch") as error:
        student.fit(form(x, y), steps_per_epoch=5, verbose=0)
    assert len(str(error.value)) < 400
    assert np.isfinite(student.student.get_weights()[0]).all()


@pytest.mark.parametrize("place", ["validation", "mutual", "compress", "cluster"])
def test_other_trainings_name_such_labels_too(place, data):
    x, y = data
    good = tf.data.Dataset.from_tensor_slices((x, y.copy())).batch(16)
    y[50] = 3
    bad = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    stage = kd.Cluster(4, epochs=1) if place == "cluster" else kd.Prune(0.5, epochs=1)
    with pytest.raises(ValueError, match="label=3"):
        if place == "validation":
            distiller().fit(good, validation_data=bad, verbose=0)
        elif place == "mutual":
            mutual().fit(bad, verbose=0)
        else:
            kd.compress(distiller(), bad, stages=[stage], verbose=0)


def test_ignored_labels_and_labels_of_several_outputs(data):
    x, y = data
    y[50] = -1
    ignoring = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    distiller(ignoring).fit(FORMS["dataset"](x, y), verbose=0)

    def two():
        inputs = keras.Input((4,))
        return keras.Model(
            inputs, {"a": keras.layers.Dense(3)(inputs), "b": keras.layers.Dense(2)(inputs)}
        )

    result = kd.Distiller(two(), two(), [{"a": LOSS, "b": None}])
    result.compile("sgd", loss={"a": ignoring, "b": CROSSENTROPY})
    data = tf.data.Dataset.from_tensor_slices((x, {"a": y, "b": np.abs(y)})).batch(16)
    with pytest.raises(ValueError, match=r"0 \.\.\. 1"):
        result.fit(data.skip(1).concatenate(data), verbose=0)


def test_an_empty_list_of_losses_is_refused():
    for make in (
        lambda: kd.Distiller(network(), network(), []),
        lambda: kd.MutualDistiller([network(), network()], ()),
    ):
        with pytest.raises(ValueError, match="`distillation_losses`"):
            make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kd.Distiller(None, network(), [], student_loss_weight=1.0)


def test_variables_of_two_losses_are_not_shared():
    loss, projection = kd.losses.VID(), keras.layers.Dense(4)
    hint = kd.Hint("a", "a")
    for losses, name in (
        ([kd.Hint("a", "a", loss=loss), kd.Hint("b", "b", loss=loss)], "VID"),
        ([kd.Hint("a", "a", projection=projection), kd.Hint("b", "b", projection=projection)], "D"),
        ([hint, hint], "Hint"),
    ):
        with pytest.raises(ValueError, match=f"hold the same {name}"):
            kd.Distiller(None, network(), losses)
    shared = kd.losses.FitNet()
    kd.Distiller(None, network(), [kd.Hint(name, name, loss=shared) for name in "ab"])
