import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.compression.running.drop_limit import evaluate_teacher
from keras_kd.teachers import TaughtInputs


def network(units, name):
    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(units, name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3)(hidden), name=name)


def trained(teacher, data, hint):
    keras.utils.set_random_seed(1)
    losses = [kd.losses.KLDivergence(2.0)] + ([kd.Hint("hidden", "hidden")] if hint else [])
    distiller = kd.Distiller(teacher, network(4, "student"), losses)
    distiller.compile(
        keras.optimizers.SGD(0.1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    distiller.fit(data, validation_data=data, epochs=2, verbose=0)
    return distiller.student.get_weights()


def forbid_calls(model):
    def call(*args, **kwargs):
        raise AssertionError("the teacher was run")

    object.__setattr__(model, "call", call)


@pytest.mark.promise
def test_outputs_brought_along_teach_as_the_teacher_does_without_running_it():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 5)).astype("float32")
    y = rng.integers(0, 3, 32)
    keras.utils.set_random_seed(0)
    teacher = network(8, "teacher")
    hidden = keras.Model(teacher.input, teacher.get_layer("hidden").output)
    outputs, features = teacher(x).numpy(), {"hidden": hidden(x).numpy()}
    taught = TaughtInputs(x, outputs, features)
    plain = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    expected = trained(teacher, plain, hint=True)
    forbid_calls(teacher)
    result = trained(teacher, tf.data.Dataset.from_tensor_slices((taught, y)).batch(8), hint=True)
    for a, b in zip(expected, result, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_features_may_be_left_out():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 5)).astype("float32"), rng.integers(0, 3, 16)
    teacher = network(8, "teacher")
    taught = TaughtInputs(x, teacher(x).numpy())
    forbid_calls(teacher)
    trained(teacher, tf.data.Dataset.from_tensor_slices((taught, y)).batch(8), hint=False)


def taught_data(features=None):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 5)).astype("float32"), rng.integers(0, 3, 16)
    outputs = rng.normal(size=(16, 3)).astype("float32")
    return tf.data.Dataset.from_tensor_slices((TaughtInputs(x, outputs, features or {}), y)).batch(
        8
    )


def without_teacher(losses, student=None):
    distiller = kd.Distiller(None, student or network(4, "student"), losses)
    distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return distiller


@pytest.mark.promise
def test_no_teacher_is_needed_where_the_data_brings_its_outputs():
    losses = [kd.losses.KLDivergence(2.0), kd.Hint("hidden", "hidden")]
    distiller = without_teacher(losses)
    before = distiller.student.get_weights()
    data = taught_data({"hidden": np.ones((16, 8), "float32")})
    history = distiller.fit(data, epochs=1, verbose=0).history
    assert history["distillation_loss"][0] > 0
    assert distiller.distillation_losses[1].layers[0].kernel.shape == (4, 8)
    assert not np.array_equal(before[0], distiller.student.get_weights()[0])
    compressed = kd.compress(distiller, data, stages=[kd.Prune(0.5, epochs=1)], verbose=0)
    assert compressed.layers[1].sparsity == pytest.approx(0.5)


def test_data_that_brings_no_outputs_is_refused_before_training():
    distiller = without_teacher(kd.losses.KLDivergence(2.0))
    with pytest.raises(ValueError, match=r"no teacher.*distiller\.teacher = .*TaughtInputs\("):
        distiller.fit(np.ones((4, 5), "float32"), np.zeros(4), verbose=0)
    with pytest.raises(ValueError, match="has no teacher"):
        kd.compress(
            distiller,
            (np.ones((4, 5), "float32"), np.zeros(4)),
            stages=[kd.Prune(0.5, epochs=1)],
            verbose=0,
        )


def test_brought_outputs_that_do_not_fit_are_refused():
    inputs = keras.Input((5,))
    wide = keras.Model(inputs, keras.layers.Dense(4)(inputs))
    with pytest.raises(ValueError, match=r"output has shape \(3,\).*student's \(4,\)"):
        without_teacher(kd.losses.KLDivergence(), wide).fit(taught_data(), verbose=0)
    hint = kd.Hint("hidden", "hidden", name="h")
    with pytest.raises(
        ValueError, match=r"Hint 'h', teacher_layer.*not the feature 'hidden'.*none"
    ):
        without_teacher(hint).fit(taught_data(), verbose=0)
    x, p = np.ones((4, 5), "float32"), np.full((4, 3), 1 / 3, "float32")
    with pytest.raises(ValueError, match="teacher ends in softmax"):
        without_teacher(kd.losses.KLDivergence()).fit(TaughtInputs(x, p), np.zeros(4), verbose=0)


def turned(logits):
    return logits[:, ::-1]


def loss_of(distiller, data):
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                      evaluate_distillation=True)  # fmt: skip
    return distiller.evaluate(data, verbose=0, return_dict=True)["distillation_loss"]


@pytest.mark.fast_cases("no teacher")
@pytest.mark.parametrize("given", ["teacher", "no teacher", "loaded"])
def test_teacher_outputs_is_applied_to_outputs_brought_along(given, tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 5)).astype("float32"), rng.integers(0, 3, 16)
    teacher, student = network(8, "teacher"), network(4, "student")
    function = keras.layers.Flatten() if given == "loaded" else turned
    if given == "loaded":  # a layer: functions need to be registered
        teacher = keras.Model(teacher.input, keras.layers.Reshape((3, 1))(teacher.output))
    loss = kd.losses.KLDivergence(2.0)
    live = kd.Distiller(teacher, student, loss, teacher_outputs=function)
    expected = loss_of(live, tf.data.Dataset.from_tensor_slices((x, y)).batch(8))
    taught = TaughtInputs(x, teacher(x).numpy())
    data = tf.data.Dataset.from_tensor_slices((taught, y)).batch(8)
    distiller = live
    if given == "no teacher":
        distiller = kd.Distiller(None, student, loss, teacher_outputs=function)
    if given == "loaded":
        live.save(tmp_path / "d.keras")
        distiller = keras.models.load_model(tmp_path / "d.keras")
    assert loss_of(distiller, data) == pytest.approx(expected, rel=1e-5)
    distiller.fit(data, verbose=0)
    # The stages make a distiller of their own, and `max_drop` measures the outputs.
    compressed = kd.compress(distiller, data, stages=[kd.Prune(0.5, epochs=1)], verbose=0)
    assert compressed.layers[1].sparsity == pytest.approx(0.5)


def test_max_drop_measures_the_adapted_outputs():
    x = np.eye(3, 5, dtype="float32")
    logits = 9.0 * np.eye(3, dtype="float32")
    distiller = kd.Distiller(
        None, network(4, "student"), kd.losses.KLDivergence(), teacher_outputs=turned
    )
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True), metrics=["accuracy"])
    data = tf.data.Dataset.from_tensors((TaughtInputs(x, logits), np.array([2, 1, 0])))
    distiller.evaluate(data, verbose=0)
    assert evaluate_teacher(distiller, data)["accuracy"] == 1.0


@pytest.mark.promise
def test_stages_apply_teacher_outputs():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 5)).astype("float32"), rng.integers(0, 3, 16)
    teacher, weights = network(8, "teacher"), network(4, "student").get_weights()
    results = []
    for data in (x, TaughtInputs(x, teacher(x).numpy())):
        student = network(4, "student")
        student.set_weights(weights)
        distiller = kd.Distiller(
            teacher, student, kd.losses.KLDivergence(2.0), None, 0.0, teacher_outputs=turned
        )
        distiller.compile(keras.optimizers.SGD(0.5))
        batches = tf.data.Dataset.from_tensors((data, y))
        compressed = kd.compress(distiller, batches, stages=[kd.Prune(0.1, epochs=2)], verbose=0)
        results.append(compressed.model.get_weights())
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_top_k_logits_are_cached_behind_teacher_outputs():
    distiller = kd.Distiller(
        None, network(4, "student"), kd.losses.KLDivergence(1.0), teacher_outputs=turned
    )
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    kept = kd.losses.top_k_logits(np.eye(4, 3, dtype="float32"), 2, 1.0)
    data = tf.data.Dataset.from_tensors((TaughtInputs(np.ones((4, 5)), kept), np.zeros(4)))
    with pytest.raises(ValueError, match=r"`teacher_outputs`.*top-k.*cache\(distiller"):
        distiller.fit(data, verbose=0)


def test_a_mask_of_what_is_not_there_is_refused():
    distiller = without_teacher(kd.losses.KLDivergence())
    taught = TaughtInputs(np.ones((4, 5)), np.ones((4, 3)), {}, {"outputs/0": np.ones((4,), bool)})
    with pytest.raises(ValueError, match=r"Received: 'outputs/0'\. Use a key of \['outputs'\]"):
        distiller.fit(taught, np.zeros(4), verbose=0)
