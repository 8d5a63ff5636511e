import contextlib
import importlib.util
import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_kd as kd
from keras_kd.models.views import read_as

SparseCE = keras.losses.SparseCategoricalCrossentropy


def network(channels, classes=4, name="network", activation=None, **dense):
    inputs = keras.Input((6, 6, 1))
    x = layers.Conv2D(channels, 3, padding="same", name="conv")(inputs)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.ReLU(name="features")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(classes, activation=activation, name="logits", **dense)(x)
    return keras.Model(inputs, outputs, name=name)


def examples(count=32, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 6, 6, 1)).astype("float32"), rng.integers(0, classes, count)


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def numpy_kl(teacher, student, temperature):
    t = log_softmax(np.asarray(teacher, "float64") / temperature)
    s = log_softmax(np.asarray(student, "float64") / temperature)
    return temperature**2 * (np.exp(t) * (t - s)).sum(-1)


def compiled(distiller, optimizer=None, loss=None, **kwargs):
    distiller.compile(optimizer or keras.optimizers.SGD(0.1), loss or SparseCE(True), **kwargs)
    return distiller


def calls_counted(model, name):
    layer = model.get_layer(name)
    original, count = layer.call, []

    def call(*args, **kwargs):
        count.append(kwargs.get("training"))
        return original(*args, **kwargs)

    object.__setattr__(layer, "call", call)
    return count


# What the step computes


def test_total_is_the_weighted_sum_of_the_contract():
    teacher, student = network(5), network(3)
    hint = kd.Hint("pool", "pool")
    distiller = compiled(
        kd.Distiller(teacher, student, [kd.losses.KLDivergence(3.0), hint], [1.0, 0.5], 0.25),
        keras.optimizers.SGD(0.0),
    )
    x, y = examples()
    teacher_logits = teacher(x, training=False).numpy()
    student_logits = student(x, training=True).numpy()
    pooled = keras.Model(teacher.input, teacher.get_layer("pool").output)(x).numpy()
    student_pool = keras.Model(student.input, student.get_layer("pool").output)(x, training=True)
    projection = hint.layers[0]
    projected = student_pool.numpy() @ projection.kernel.numpy() + projection.bias.numpy()

    kl = numpy_kl(teacher_logits, student_logits, 3.0).mean()
    fitnet = np.mean((pooled - projected) ** 2)
    cross_entropy = -log_softmax(student_logits.astype("float64"))[np.arange(32), y].mean()
    distillation = kl + 0.5 * fitnet
    logs = distiller.fit(x, y, batch_size=32, verbose=0, shuffle=False).history

    assert logs["kl_divergence"][0] == pytest.approx(kl, rel=1e-4)
    assert logs[hint.name][0] == pytest.approx(fitnet, rel=1e-4)
    assert logs["student_loss"][0] == pytest.approx(cross_entropy, rel=1e-4)
    assert logs["distillation_loss"][0] == pytest.approx(distillation, rel=1e-4)
    assert logs["loss"][0] == pytest.approx(0.25 * cross_entropy + 0.75 * distillation, rel=1e-4)


def test_student_descends_the_gradient_of_that_sum():
    teacher, student = network(5), network(3)
    x, y = examples()
    teacher_logits = teacher(x, training=False)
    with tf.GradientTape() as tape:
        logits = student(x, training=True)
        t = tf.nn.log_softmax(teacher_logits / 2.0)
        s = tf.nn.log_softmax(logits / 2.0)
        kl = 4.0 * tf.reduce_mean(tf.reduce_sum(tf.exp(t) * (t - s), -1))
        total = 0.3 * SparseCE(True)(y, logits) + 0.7 * kl
    expected = [
        variable.numpy() - 0.1 * gradient.numpy()
        for variable, gradient in zip(
            student.trainable_variables,
            tape.gradient(total, student.trainable_variables),
            strict=True,
        )
    ]
    distiller = kd.Distiller(teacher, student, kd.losses.KLDivergence(2.0), student_loss_weight=0.3)
    compiled(distiller).fit(x, y, batch_size=32, verbose=0)
    for variable, value in zip(student.trainable_variables, expected, strict=True):
        np.testing.assert_allclose(variable, value, rtol=1e-4, atol=1e-6)


def test_each_model_runs_once_a_step_with_hints():
    teacher, student = network(5), network(3)
    teacher_calls, student_calls = (
        calls_counted(teacher, "conv"),
        calls_counted(student, "conv"),
    )
    moving_mean = student.get_layer("bn").moving_mean.numpy()
    x, y = examples()
    conv = student.get_layer("conv")
    convolved = keras.ops.conv(x, conv.kernel, padding="same") + conv.bias
    batch_mean = convolved.numpy().mean((0, 1, 2))
    distiller = kd.Distiller(
        teacher, student, [kd.losses.KLDivergence(), kd.Hint("features", "features")]
    )
    compiled(distiller, run_eagerly=True).fit(x, y, batch_size=32, verbose=0)
    assert len(teacher_calls) == 2  # one before training
    assert len(student_calls) == 1
    # One pass moves the statistics once: 0.99 * old + 0.01 * new.
    np.testing.assert_allclose(
        student.get_layer("bn").moving_mean,
        0.99 * moving_mean + 0.01 * batch_mean,
        rtol=1e-3,
        atol=1e-6,
    )


def test_teacher_is_left_as_it_was_found():
    teacher, student = network(5), network(3)
    teacher.compile(keras.optimizers.Adam(), "mse")
    optimizer = teacher.optimizer
    before = [w.copy() for w in teacher.get_weights()]
    distiller = compiled(
        kd.Distiller(teacher, student, [kd.losses.KLDivergence(), kd.Hint("features", "features")])
    )
    distiller.fit(*examples(), epochs=2, verbose=0)
    assert teacher.trainable
    assert len(teacher.trainable_variables) == 6
    assert teacher.optimizer is optimizer
    for old, new in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    teacher_ids = {id(v) for v in teacher.variables}
    assert not teacher_ids & {id(v) for v in distiller.variables}


def test_teacher_runs_in_inference_mode():
    inputs = keras.Input((6, 6, 1))
    x = layers.Dropout(0.9)(layers.Flatten()(inputs))
    teacher = keras.Model(inputs, layers.Dense(4)(x))
    student = network(3)
    x, y = examples()
    expected = numpy_kl(teacher(x, training=False), student(x, training=True), 4.0).mean()
    distiller = compiled(
        kd.Distiller(teacher, student, kd.losses.KLDivergence()), keras.optimizers.SGD(0.0)
    )
    logs = distiller.fit(x, y, batch_size=32, verbose=0).history
    assert logs["distillation_loss"][0] == pytest.approx(expected, rel=1e-4)


def test_sample_weight_weighs_both_terms():
    teacher, student = network(5), network(3)
    x, y = examples()
    weights = np.linspace(0.0, 2.0, 32).astype("float32")
    logits = student(x, training=True).numpy()
    kl = (weights * numpy_kl(teacher(x), logits, 4.0)).mean()
    cross_entropy = (weights * -log_softmax(logits.astype("float64"))[np.arange(32), y]).mean()
    distiller = compiled(
        kd.Distiller(teacher, student, kd.losses.KLDivergence()), keras.optimizers.SGD(0.0)
    )
    logs = distiller.fit(x, y, sample_weight=weights, batch_size=32, verbose=0).history
    assert logs["distillation_loss"][0] == pytest.approx(kl, rel=1e-4)
    assert logs["student_loss"][0] == pytest.approx(cross_entropy, rel=1e-4)


def test_class_weight_counts():
    teacher, student = network(5), network(3)
    x, y = examples()
    class_weight = {0: 0.0, 1: 1.0, 2: 2.0, 3: 3.0}
    kl = (y * numpy_kl(teacher(x), student(x, training=True), 4.0)).mean()
    distiller = compiled(
        kd.Distiller(teacher, student, kd.losses.KLDivergence()), keras.optimizers.SGD(0.0)
    )
    logs = distiller.fit(x, y, class_weight=class_weight, batch_size=32, verbose=0).history
    assert logs["distillation_loss"][0] == pytest.approx(kl, rel=1e-4)


def test_students_regularizers_count_once_and_unweighted():
    teacher = network(5)
    student = network(3, kernel_regularizer=keras.regularizers.L2(0.5))
    penalty = 0.5 * float(np.sum(student.get_layer("logits").kernel.numpy() ** 2))
    distiller = compiled(
        kd.Distiller(teacher, student, kd.losses.KLDivergence(), student_loss_weight=0.2),
        keras.optimizers.SGD(0.0),
    )
    logs = distiller.fit(*examples(), batch_size=32, verbose=0).history
    expected = 0.2 * logs["student_loss"][0] + 0.8 * logs["distillation_loss"][0] + penalty
    assert logs["loss"][0] == pytest.approx(expected, rel=1e-4)


def test_projection_learns_and_is_no_part_of_the_student():
    teacher, student = network(5), network(3)
    hint = kd.Hint("features", "features")
    distiller = compiled(kd.Distiller(teacher, student, hint))
    kernel = hint.layers[0].kernel.numpy()
    distiller.fit(*examples(), verbose=0)
    assert np.abs(hint.layers[0].kernel.numpy() - kernel).max() > 0
    assert len(student.trainable_variables) == 6
    assert student(examples()[0]).shape == (32, 4)


@pytest.mark.parametrize(
    "options",
    [{"run_eagerly": True}, {"jit_compile": True}, {"steps_per_execution": 2}],
    ids=lambda options: next(iter(options)),
)
@pytest.mark.promise
def test_options_of_compile_do_not_change_what_is_learnt(options):
    weights = []
    for chosen in ({"jit_compile": False}, options):
        keras.utils.set_random_seed(0)
        distiller = kd.Distiller(
            network(5), network(3), [kd.losses.KLDivergence(), kd.Hint("features", "features")]
        )
        compiled(distiller, **chosen).fit(*examples(), batch_size=8, shuffle=False, verbose=0)
        weights.append(distiller.get_weights())
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_accumulated_gradients_are_those_of_the_larger_batch():
    weights = []
    for size, steps in ((32, None), (8, 4)):
        keras.utils.set_random_seed(0)
        teacher, student = network(5), network(3)
        student.get_layer("bn").trainable = False
        distiller = kd.Distiller(teacher, student, [kd.losses.KLDivergence()])
        optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=steps)
        compiled(distiller, optimizer)
        distiller.fit(*examples(), batch_size=size, shuffle=False, verbose=0)
        weights.append([weight.numpy() for weight in student.trainable_variables])
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_teacher_that_xla_cannot_compile_turns_the_default_off(monkeypatch):
    # As on a machine with a GPU; without one, Keras's default is off.
    monkeypatch.setattr(keras.Model, "_resolve_auto_jit_compile", lambda model: True)
    teacher = network(5)
    for supported in (True, False):
        teacher.get_layer("conv").supports_jit = supported
        distiller = compiled(kd.Distiller(teacher, network(3), kd.losses.KLDivergence()))
        assert distiller.jit_compile is supported


def test_distillation_alone_teaches():
    teacher, student = network(5), network(3)
    x, _ = examples(128)
    distiller = kd.Distiller(teacher, student, kd.losses.KLDivergence(1.0), student_loss_weight=0.0)
    distiller.compile(keras.optimizers.Adam(0.02))
    losses = distiller.fit(x, epochs=15, batch_size=32, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]


# Evaluation


def test_each_number_has_one_name():
    teacher, student = network(5), network(3)
    x, y = examples()
    hints = [kd.Hint("conv", "conv"), kd.Hint("conv", "conv")]
    distiller = compiled(kd.Distiller(teacher, student, [kd.losses.KLDivergence(), *hints]))
    logs = distiller.fit(x, y, validation_data=(x, y), verbose=0).history
    sums = {"loss", "student_loss", "distillation_loss", "val_loss"}
    assert set(logs) == {*sums, "kl_divergence", "fit_net_conv", "fit_net_conv_2"}

    distiller = compiled(kd.Distiller(teacher, student, kd.losses.KLDivergence()))
    assert set(distiller.fit(x, y, validation_data=(x, y), verbose=0).history) == sums

    distiller = compiled(kd.Distiller(None, student, [], student_loss_weight=1.0))
    assert set(distiller.fit(x, y, verbose=0).history) == {"loss"}


def test_the_progress_line_has_losses_before_metrics_and_no_loss_twice(capsys):
    x, y = examples()
    distiller = compiled(
        kd.Distiller(network(5), network(3), kd.losses.KLDivergence()), metrics=["accuracy"]
    )
    logs = distiller.fit(x, y, validation_data=(x, y), verbose=2).history
    line = next(line for line in capsys.readouterr().out.splitlines() if "loss" in line)
    shown = [part.split(":")[0] for part in line.split(" - ") if ": " in part]
    assert shown == ["loss", "distillation_loss", "accuracy", "val_loss", "val_accuracy"]
    assert "student_loss" in logs


def test_evaluate_does_not_run_the_teacher_unless_asked():
    teacher, student = network(5), network(3)
    calls = calls_counted(teacher, "conv")
    x, y = examples()
    distiller = compiled(
        kd.Distiller(teacher, student, kd.losses.KLDivergence()), metrics=["accuracy"]
    )
    results = distiller.evaluate(x, y, verbose=0, return_dict=True)
    assert calls == []
    assert set(results) == {"accuracy", "loss"}
    picked = log_softmax(student(x).numpy().astype("float64"))[np.arange(32), y]
    assert results["loss"] == pytest.approx(-picked.mean(), rel=1e-5)

    compiled(distiller, metrics=["accuracy"], evaluate_distillation=True)
    results = distiller.evaluate(x, y, verbose=0, return_dict=True)
    assert results["distillation_loss"] == pytest.approx(
        numpy_kl(teacher(x), student(x), 4.0).mean(), rel=1e-4
    )


def test_predict_gives_the_students_outputs():
    student = network(3)
    distiller = kd.Distiller(network(5), student, kd.losses.KLDivergence())
    x, _ = examples()
    np.testing.assert_allclose(distiller.predict(x, verbose=0), student(x), rtol=1e-5, atol=1e-6)


# Saving


@pytest.mark.promise
def test_saving_leaves_the_teacher_out_and_training_goes_on_after_loading(tmp_path):
    teacher, student = network(50), network(3)
    x, y = examples()
    distiller = compiled(
        kd.Distiller(
            teacher, student, [kd.losses.KLDivergence(3.0), kd.Hint("features", "features")]
        ),
        keras.optimizers.Adam(),
    )
    distiller.fit(x, y, verbose=0)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    assert len(loaded.variables) == len(distiller.variables)
    assert sum(np.prod(v.shape) for v in loaded.student.variables) < 100
    np.testing.assert_allclose(loaded.predict(x, verbose=0), distiller.predict(x, verbose=0))
    assert loaded.distillation_losses[0].temperature == 3.0
    assert loaded.teacher is None
    with pytest.raises(ValueError, match=r"distiller\.teacher = teacher"):
        loaded.fit(x, y, verbose=0)

    loaded.teacher = teacher
    distiller.fit(x, y, shuffle=False, verbose=0)
    loaded.fit(x, y, shuffle=False, verbose=0)
    for a, b in zip(distiller.trainable_variables, loaded.trainable_variables, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_config_is_json():
    distiller = kd.Distiller(
        network(5), network(3), [kd.losses.KLDivergence(3.0)], [0.5], student_loss_weight=0.7
    )
    config = json.loads(json.dumps(distiller.get_config()))
    copy = kd.Distiller.from_config(config)
    assert copy.student_loss_weight == 0.7
    assert copy.distillation_loss_weights == [0.5]
    assert copy.distillation_losses[0].temperature == 3.0


# Kinds of models


class Subclassed(keras.Model):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.flatten = layers.Flatten()
        self.hidden = layers.Dense(units, name="hidden")
        self.last = layers.Dense(4)

    def call(self, x, training=None):
        return self.last(self.hidden(self.flatten(x)))


def test_subclassed_models_with_hints():
    hint = kd.Hint("hidden", "hidden")
    distiller = compiled(
        kd.Distiller(Subclassed(7), Subclassed(3), [kd.losses.KLDivergence(), hint])
    )
    logs = distiller.fit(*examples(), verbose=0).history
    assert np.isfinite(logs[hint.name][0])
    assert hint.layers[0].kernel.shape == (3, 7)


def test_layer_inside_a_nested_backbone():
    inputs = keras.Input((6, 6, 1))
    backbone = network(5, name="backbone")
    teacher = keras.Model(inputs, layers.Dense(4)(backbone(inputs)))
    hint = kd.Hint("backbone/features", "features")
    distiller = compiled(kd.Distiller(teacher, network(3), [kd.losses.KLDivergence(), hint]))
    logs = distiller.fit(*examples(), verbose=0).history
    assert logs[hint.name][0] > 0


def two_outputs(channels):
    inputs = keras.Input((6, 6, 1))
    x = layers.Flatten()(inputs)
    x = layers.Dense(channels)(x)
    outputs = {"a": layers.Dense(4, name="a")(x), "b": layers.Dense(2, name="b")(x)}
    return keras.Model(inputs, outputs)


def test_a_loss_per_output_and_none_to_skip():
    teacher, student = two_outputs(6), two_outputs(3)
    x, y = examples()
    labels = {"a": y, "b": y % 2}
    distiller = kd.Distiller(
        teacher, student, [{"a": kd.losses.KLDivergence(2.0), "b": None}], student_loss_weight=0.5
    )
    distiller.compile(keras.optimizers.SGD(0.0), loss={"a": SparseCE(True), "b": SparseCE(True)})
    expected = numpy_kl(teacher(x)["a"], student(x)["a"], 2.0).mean()
    logs = distiller.fit(x, labels, batch_size=32, verbose=0).history
    assert logs["distillation_loss"][0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_student_of_a_float32_teacher(policy, dtype_policy):
    teacher = network(5)
    with dtype_policy(policy):
        student = network(3)
    distiller = compiled(
        kd.Distiller(teacher, student, [kd.losses.KLDivergence(), kd.Hint("features", "features")])
    )
    logs = distiller.fit(*examples(), verbose=0).history
    assert np.isfinite(logs["loss"][0])
    assert logs["kl_divergence"][0] > 0


def test_losses_of_keras_are_accepted():
    teacher, student = network(5), network(5)
    correct = keras.distillation.LogitsDistillation(
        temperature=2.0, loss=keras.losses.KLDivergence()
    )
    feature = keras.distillation.FeatureDistillation("mse", "features", "features")
    distiller = kd.Distiller(teacher, student, [correct, feature], [1.0, 1.0])
    distiller.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    x, y = examples()
    kl = numpy_kl(teacher(x), student(x, training=True), 2.0).mean()
    logs = distiller.fit(x, y, batch_size=32, verbose=0).history
    assert logs["logits_distillation"][0] == pytest.approx(kl, rel=1e-3)
    assert logs["feature_distillation"][0] > 0


def test_losses_of_the_same_kind_keep_names_of_their_own():
    distiller = compiled(
        kd.Distiller(
            network(5), network(3), [kd.losses.KLDivergence(1.0), kd.losses.KLDivergence(4.0)]
        )
    )
    logs = distiller.fit(*examples(), verbose=0).history
    assert logs["kl_divergence"] != logs["kl_divergence_2"]


def test_named_cross_entropy_is_read_as_the_student_ends():
    student = network(3)
    distiller = kd.Distiller(network(5), student, kd.losses.KLDivergence(), None, 0.5)
    distiller.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    x, y = examples()
    logits = student(x, training=True).numpy().astype("float64")
    logs = distiller.fit(x, y, batch_size=32, verbose=0).history
    assert logs["student_loss"][0] == pytest.approx(
        -log_softmax(logits)[np.arange(32), y].mean(), rel=1e-4
    )


# Bad input: one clear error before training


def test_outputs_of_unequal_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(4,\).*\(7,\).*equal shapes"):
        kd.Distiller(network(5), network(3, classes=7), kd.losses.KLDivergence())


def test_subclassed_outputs_of_unequal_shape_are_refused_before_training():
    distiller = compiled(kd.Distiller(Subclassed(3), network(3, 7), kd.losses.KLDivergence()))
    weights = distiller.student.get_weights()
    with pytest.raises(ValueError, match="equal shapes"):
        distiller.fit(*examples(), verbose=0)
    for old, new in zip(weights, distiller.student.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_softmax_before_a_loss_on_logits_is_refused(role):
    models = {"teacher": network(5), "student": network(3)}
    models[role] = network(3, activation="softmax")
    with pytest.raises(ValueError, match=f"{role} ends in softmax.*from_logits=False"):
        kd.Distiller(models["teacher"], models["student"], kd.losses.KLDivergence())


def test_softmax_of_a_subclassed_teacher_is_found_on_the_first_batch():
    class Probabilities(Subclassed):
        def call(self, x, training=None):
            return keras.ops.softmax(super().call(x))

    distiller = compiled(kd.Distiller(Probabilities(3), network(3), kd.losses.KLDivergence()))
    with pytest.raises(ValueError, match="teacher ends in softmax"):
        distiller.fit(*examples(), verbose=0)


def test_probabilities_are_distilled_when_said_so():
    teacher = network(5, activation="softmax")
    student = network(3, activation="softmax")
    distiller = kd.Distiller(teacher, student, kd.losses.KLDivergence(1.0, from_logits=False))
    distiller.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    x, y = examples()
    t, s = teacher(x).numpy().astype("float64"), student(x, training=True).numpy()
    logs = distiller.fit(x, y, batch_size=32, verbose=0).history
    expected = (t * (np.log(t) - np.log(s.astype("float64")))).sum(-1).mean()
    assert logs["distillation_loss"][0] == pytest.approx(expected, rel=1e-3, abs=1e-7)


def test_hint_naming_no_layer_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match=r"teacher_layer.*no layer 'block9'.*features"):
        kd.Distiller(network(5), network(3), kd.Hint("block9", "features"))
    with pytest.raises(ValueError, match=r"student_layer.*no layer 'block9'.*features"):
        kd.Distiller(network(5), network(3), kd.Hint("features", "block9"))


def test_labels_out_of_range_are_refused_before_training():
    distiller = compiled(kd.Distiller(network(5), network(3), kd.losses.KLDivergence()))
    x, y = examples()
    y[-1] = 9
    with pytest.raises(ValueError, match=r"0 \.\.\. 3.*holds 9"):
        distiller.fit(x, y, verbose=0)
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(32)
    with pytest.raises(ValueError, match=r"0 \.\.\. 3.*holds 9"):
        distiller.fit(dataset, verbose=0)


def test_empty_data_set_is_refused():
    distiller = compiled(kd.Distiller(network(5), network(3), kd.losses.KLDivergence()))
    x, y = examples()
    with pytest.raises(ValueError, match="holds no examples"):
        distiller.fit(x[:0], y[:0], verbose=0)
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(64, drop_remainder=True)
    with pytest.raises(ValueError, match="holds no examples"):
        distiller.fit(dataset, verbose=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"teacher": 5}, "`teacher` must be a keras.Model or another callable.*int: 5"),
        ({"student": 3}, "`student` must be a keras.Model"),
        ({"distillation_losses": None}, "cannot be None"),
        ({"distillation_losses": ["mse"]}, "keras_kd.losses"),
        ({"distillation_losses": [[None]]}, "holds no loss"),
        ({"distillation_loss_weights": [1.0, 2.0]}, "2 for 1 distillation"),
        ({"student_loss_weight": 1.5}, "`student_loss_weight`"),
        ({"student_loss_weight": "0.5"}, "must be a number"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    given = {
        "teacher": network(5),
        "student": network(3),
        "distillation_losses": [kd.losses.KLDivergence()],
        **arguments,
    }
    with pytest.raises(ValueError, match=re.compile(message)):
        kd.Distiller(**given)


def test_missing_loss_on_labels_is_refused():
    distiller = kd.Distiller(network(5), network(3), kd.losses.KLDivergence())
    with pytest.raises(ValueError, match=r"student_loss_weight=0\.0"):
        distiller.compile("adam")


def test_loss_that_contradicts_the_student_is_refused():
    distiller = kd.Distiller(network(5), network(3), kd.losses.KLDivergence())
    with pytest.raises(ValueError, match="from_logits=True"):
        distiller.compile("adam", SparseCE(from_logits=False))


@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        ("sparse_categorical_crossentropy", SparseCE),
        (keras.losses.sparse_categorical_crossentropy, SparseCE),
        ("categorical_focal_crossentropy", keras.losses.CategoricalFocalCrossentropy),
        (keras.losses.binary_focal_crossentropy, keras.losses.BinaryFocalCrossentropy),
    ],
)
def test_cross_entropies_by_name_and_function_read_the_logits_of_the_student(loss, kind):
    student = network(3)
    distiller = kd.Distiller(network(5), student, kd.losses.KLDivergence())
    x, y = examples()
    y = y if kind is SparseCE else np.eye(4, dtype="float32")[y]
    found = compiled(distiller, loss=loss).evaluate(x, y, verbose=0, return_dict=True)
    expected = kind(from_logits=True)(y, student(x, training=False))
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)


def test_refuses_class_weight_without_labels():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    student = keras.models.clone_model(model)
    distiller = kd.Distiller(model, student, kd.losses.KLDivergence(), student_loss_weight=0.0)
    distiller.compile("sgd")
    with pytest.raises(ValueError, match="`class_weight`, which weighs an example by its label"):
        distiller.fit(np.zeros((8, 4), "float32"), class_weight={0: 1.0, 1: 2.0}, verbose=0)


def test_tensorboard_without_its_package_is_refused_before_training(monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorboard" else find(name)
    )
    distiller = compiled(kd.Distiller(network(5), network(3), kd.losses.KLDivergence()))
    callback = keras.callbacks.TensorBoard(tmp_path / "logs")
    with pytest.raises(ImportError, match=r"keras-kd\[tensorboard\]"):
        distiller.fit(*examples(), callbacks=callback, verbose=0)
    assert not (tmp_path / "logs").exists()


# Masks, names and evaluation


def reader_of_tokens(seed, masks=True):
    keras.utils.set_random_seed(seed)
    tokens = keras.Input((4,))
    x = layers.Embedding(9, 3, mask_zero=masks)(tokens)
    return keras.Model(tokens, layers.Dense(3, name="logits")(x))


TOKENS = np.array([[1, 2, 0, 0], [3, 4, 5, 0]])


class Plain:
    """A view that changes nothing."""

    layers = ()

    def applied(self, training):
        return contextlib.nullcontext()


@pytest.mark.parametrize("of", ["student", "teacher", "student seen through a view, eagerly"])
def test_masked_positions_do_not_count(of):
    teacher, student = reader_of_tokens(0, "teacher" in of), reader_of_tokens(1, "student" in of)
    distiller = kd.Distiller(teacher, student, kd.losses.KLDivergence())
    if "view" in of:
        distiller.look_through(Plain())
    compiled(distiller, keras.optimizers.SGD(0.0), run_eagerly="eagerly" in of)
    history = distiller.fit(TOKENS, np.ones((2, 4), int), verbose=0).history
    values = numpy_kl(teacher(TOKENS), student(TOKENS), 4.0)
    assert history["distillation_loss"][0] == pytest.approx(values[TOKENS > 0].mean(), rel=0.02)
    assert values.mean() != pytest.approx(values[TOKENS > 0].mean(), rel=0.1)


def test_a_metric_with_the_name_of_a_loss_is_reported():
    x, y = examples()
    losses = [kd.losses.KLDivergence(), kd.losses.LogitsMSE()]
    distiller = kd.Distiller(network(4), network(2), losses)
    metrics = [keras.metrics.KLDivergence()]
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    compiled(distiller, loss=loss, metrics=metrics)
    one_hot = np.eye(4)[y]
    history = distiller.fit(x, one_hot, validation_data=(x, one_hot), verbose=0).history
    assert {"kl_divergence", "val_kl_divergence", "kl_divergence_2", "logits_mse"} <= set(history)
    assert history["kl_divergence"] != history["kl_divergence_2"]
    parts = history["kl_divergence_2"][0] + history["logits_mse"][0]
    assert history["distillation_loss"][0] == pytest.approx(parts, rel=1e-4)


def test_without_a_loss_on_labels_evaluation_is_the_teachers():
    x, y = examples()
    teacher, student = network(4), network(2)
    distiller = kd.Distiller(teacher, student, kd.losses.KLDivergence(), student_loss_weight=0.0)
    distiller.compile(keras.optimizers.SGD(0.1), metrics=["accuracy"])
    history = distiller.fit(x, y, validation_data=(x, y), verbose=0).history
    values = numpy_kl(teacher(x), student(x), 4.0)
    assert history["val_loss"][0] == pytest.approx(values.mean(), rel=1e-4)
    taught = kd.teachers.TaughtInputs(x, teacher.predict(x, verbose=0))
    distiller = kd.Distiller(None, student, kd.losses.KLDivergence(), student_loss_weight=0.0)
    distiller.compile(keras.optimizers.SGD(0.1), metrics=["accuracy"])
    history = distiller.fit(taught, y, validation_data=(x, y), verbose=0).history
    assert "val_accuracy" in history and "val_loss" not in history


def test_a_view_is_trained_after_the_end_of_distillation():
    x, y = examples()

    class Scaled(Plain):
        def __init__(self, student):
            self.student, scale = student, layers.Dense(1, use_bias=False)
            scale.build((None, 1))
            self.layers = [scale]

        def applied(self, training):
            kernel = self.student.get_layer("logits").kernel
            scaled = keras.ops.convert_to_tensor(kernel) * self.layers[0].kernel[0, 0]
            return read_as(self.student, [(kernel, scaled)])

    student = network(2)
    distiller = kd.Distiller(network(4), student, kd.losses.KLDivergence(), stop_distillation_at=1)
    view = Scaled(student)
    distiller.look_through(view)
    compiled(distiller)
    distiller.fit(x, y, verbose=0)
    before = view.layers[0].kernel.numpy().item()
    distiller.fit(x, y, initial_epoch=1, epochs=2, verbose=0)
    assert view.layers[0].kernel.numpy().item() != before


@pytest.mark.fast_cases("distiller")
@pytest.mark.parametrize("kind", ["distiller", "mutual"])
def test_a_projection_runs_in_training_mode_while_the_student_trains(kind):
    x, y = examples()
    norm = layers.BatchNormalization()
    hint = kd.Hint("features", "features", projection=keras.Sequential([layers.Dense(4), norm]))
    if kind == "distiller":
        distiller = compiled(kd.Distiller(network(4), network(2), hint), keras.optimizers.SGD(0.0))
        distiller.fit(x, y, verbose=0)
        moving = norm.moving_mean.numpy()
        distiller.evaluate(x, y, verbose=0)
        assert np.abs(moving).max() > 0
        np.testing.assert_array_equal(norm.moving_mean.numpy(), moving)
    else:
        distiller = compiled(kd.MutualDistiller([network(4), network(4, name="other")], hint))
        distiller.fit(x, y, verbose=0)
        means = [v for v in distiller.non_trainable_variables if "moving_mean" in v.path]
        assert len(means) == 4 and all(np.abs(v.numpy()).max() > 0 for v in means)
