import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.distilling.trainer import (
    CompileArguments,
    compile_arguments,
    fresh_optimizer,
    with_loss_scale,
)

SparseCE = keras.losses.SparseCategoricalCrossentropy


def network(width=4, policy=None):
    hidden = keras.layers.Dense(width, name="hidden")
    return keras.Sequential([keras.Input((4,)), hidden, keras.layers.Dense(2, dtype=policy)])


def trained(kind):
    losses = kd.losses.KLDivergence(2.0)
    if kind == "mutual":
        return kd.MutualDistiller([network(), network(3)], losses)
    return kd.Distiller(network(), network(), losses)


@pytest.mark.parametrize("kind", ["distiller", "mutual", "plain"])
def test_the_arguments_of_compile_are_kept(kind):
    model = network() if kind == "plain" else trained(kind)
    assert compile_arguments(model) == CompileArguments()
    loss, metrics = SparseCE(from_logits=True), [keras.metrics.SparseCategoricalAccuracy()]
    model.compile("sgd", loss, metrics=metrics, weighted_metrics=["mse"])
    arguments = compile_arguments(model)
    assert arguments.loss is loss
    assert (arguments.metrics, arguments.weighted_metrics) == (metrics, ["mse"])
    assert arguments.metrics[0] is metrics[0]
    model.compile("sgd", loss)
    assert compile_arguments(model).metrics is None or kind == "plain"


def test_a_named_loss_is_kept_as_what_it_means():
    distiller = trained("distiller")
    distiller.compile("sgd", "sparse_categorical_crossentropy", loss_weights=[2.0])
    arguments = distiller.compile_arguments
    assert arguments.loss.from_logits is True
    assert arguments.loss_weights == [2.0]
    assert not arguments.has_metrics
    assert arguments.metrics_object() is None
    assert CompileArguments().loss_function() is None


def test_loss_and_metrics_are_made_again():
    names = ["a", "b"]
    arguments = CompileArguments(
        {"a": "mse", "b": "mae"}, {"a": 2.0, "b": 3.0}, {"a": [keras.metrics.MeanSquaredError()]},
        output_names=names,
    )  # fmt: skip
    y = [np.array([[1.0], [3.0]], "float32"), np.array([[0.0], [4.0]], "float32")]
    zeros = [np.zeros((2, 1), "float32")] * 2
    assert float(arguments.loss_function()(y, zeros)) == pytest.approx(2.0 * 5.0 + 3.0 * 2.0)
    measured = arguments.fresh().metrics_object()
    measured.update_state(y, zeros)
    assert float(measured.result()["a_mean_squared_error"]) == pytest.approx(5.0)
    # The copies have a state of their own.
    assert float(arguments.metrics["a"][0].result()) == 0.0


@pytest.mark.parametrize("kind", ["distiller", "mutual"])
def test_metrics_in_a_list_are_not_saved_as_a_part_of_the_model(kind, tmp_path):
    import h5py

    model = trained(kind)
    metrics = [keras.metrics.SparseCategoricalAccuracy()]
    model.compile("sgd", SparseCE(from_logits=True), metrics=metrics, weighted_metrics=metrics)
    model.fit(np.ones((4, 4), "float32"), np.zeros(4), verbose=0)
    model.save_weights(tmp_path / "model.weights.h5")
    names = []
    with h5py.File(tmp_path / "model.weights.h5") as file:
        file.visit(names.append)
    assert not [name for name in names if "accuracy" in name or "compile" in name]


@pytest.mark.parametrize("kind", ["distiller", "mutual"])
def test_arguments_of_fit_by_position_are_those_by_name(kind):
    model = trained(kind)
    model.compile("sgd", SparseCE(from_logits=True))
    x, y = np.ones((4, 4), "float32"), np.zeros(4)
    callback = keras.callbacks.History()
    history = model.fit(x, y, 2, 3, 0, [callback], 0.0, (x, y)).history
    assert len(history["val_loss"]) == len(callback.history["loss"]) == 3
    with pytest.raises(ValueError, match="validation_data"):
        model.fit(x, y, 2, 3, 0, None, 0.0, (x, y + 5))
    losses = kd.losses.KLDivergence()
    if kind == "distiller":
        silent = kd.Distiller(network(), network(), losses, student_loss_weight=0.0)
    else:
        silent = kd.MutualDistiller([network(), network()], losses, student_loss_weight=0.0)
    silent.compile("sgd")
    with pytest.raises(ValueError, match="class_weight"):
        silent.fit(x, class_weight={0: 2.0}, verbose=0)


def test_a_float16_student_gets_a_loss_scale():
    optimizer = with_loss_scale(keras.optimizers.SGD(), network(policy="mixed_float16"))
    assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    assert isinstance(optimizer.inner_optimizer, keras.optimizers.SGD)
    assert with_loss_scale(optimizer, network(policy="mixed_float16")) is optimizer


def test_a_layer_inside_a_nested_model_counts():
    inputs = keras.Input((4,))
    nested = keras.Model(inputs, network(policy="mixed_float16")(inputs))
    optimizer = with_loss_scale(keras.optimizers.SGD(), nested)
    assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_other_students_keep_their_optimizer(policy):
    optimizer = keras.optimizers.SGD()
    assert with_loss_scale(optimizer, network(policy=policy)) is optimizer
    assert with_loss_scale(None, network(policy=policy)) is None


def decayed(optimizer):
    """Return which weights of a network change in a step of gradients of zero."""
    model = network()
    before = [np.array(weight) for weight in model.trainable_weights]
    model.trainable_weights[1].assign(before[1] + 1)
    before[1] += 1
    optimizer.apply([0 * w for w in before], model.trainable_weights)
    return [not np.array_equal(w, b) for w, b in zip(model.trainable_weights, before, strict=True)]


@pytest.mark.parametrize("make", [
    lambda: keras.optimizers.SGD(0.5, weight_decay=0.1),
    lambda: keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(0.5, 9)),
    lambda: kd.DOT(0.5, weight_decay=0.1),
], ids=["sgd", "adamw", "dot"])  # fmt: skip
def test_a_fresh_optimizer_decays_the_same_weights(make):
    given = make()
    given.exclude_from_weight_decay(var_names=["bias", "gamma"])
    for optimizer in (
        fresh_optimizer(given),
        kd.Prune(0.5, optimizer=given).make_optimizer(),
        fresh_optimizer(keras.optimizers.LossScaleOptimizer(given)).inner_optimizer,
    ):
        assert type(optimizer) is type(given) and not optimizer.built
        gradients_of_two = isinstance(optimizer, kd.DOT)
        if gradients_of_two:
            optimizer.update_step = lambda *_: None
        assert decayed(optimizer) == [True, False, True, False]
    plain = fresh_optimizer(make())
    if not isinstance(plain, kd.DOT):
        assert decayed(plain)[:2] == [True, True]


def test_single_weights_without_decay_are_of_one_model_only():
    optimizer = keras.optimizers.SGD(0.5, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_list=network().trainable_weights[:1])
    with pytest.raises(ValueError, match="var_names="):
        fresh_optimizer(optimizer)


@pytest.mark.parametrize("kind", ["distiller", "mutual"])
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_inputs_are_not_rounded_before_the_student_sees_them(kind, policy, dtype_policy):
    def scaled(width):
        # Numbers above 65,504 are infinite in float16.
        scaling = keras.layers.Rescaling(1e-5, offset=-3.0, dtype="float32")
        layers = [keras.Input((4,), dtype="float32"), scaling, keras.layers.Dense(width)]
        return keras.Sequential([*layers, keras.layers.Dense(2, dtype="float32")])

    def make():
        losses = kd.losses.KLDivergence()
        if kind == "mutual":
            return kd.MutualDistiller([scaled(4), scaled(3)], losses)
        return kd.Distiller(scaled(6), scaled(4), losses)

    keras.utils.set_random_seed(0)
    with dtype_policy(policy):
        model = make()
    student = model.peers[0] if kind == "mutual" else model.student
    x = np.random.default_rng(0).normal(3e5, 1e3, (16, 4)).astype("float32")
    expected = student.predict(x, verbose=0)
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(model.predict(x, verbose=0), expected)
    np.testing.assert_array_equal(model(x), student(x))


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("kind", ["distiller", "mutual"])
def test_data_of_unknown_length_is_as_data_of_known_length(kind, jit_compile):
    """Behind its last batch nothing is counted and no weight decays."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(35, 4)).astype("float32"), rng.integers(0, 2, 35)
    known = tf.data.Dataset.from_tensor_slices((x, y)).batch(5)
    found = []
    for data in (known, known.unbatch().batch(5)):
        keras.utils.set_random_seed(0)
        model = trained(kind)
        model.compile(
            keras.optimizers.AdamW(0.05, weight_decay=0.5),
            SparseCE(from_logits=True),
            metrics=["accuracy"],
            jit_compile=jit_compile,
        )
        history = model.fit(data, epochs=3, validation_data=data, verbose=0).history
        assert int(model.optimizer.iterations) == 21
        found.append((history, model.get_weights()))
    for name, values in found[0][0].items():
        assert found[1][0][name] == pytest.approx(values, rel=1e-4), name
    for one, other in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_losses_of_several_outputs_in_data_of_unknown_length():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(35, 4)).astype("float32"), rng.integers(0, 2, 35)
    known = tf.data.Dataset.from_tensor_slices((x, (y, y))).batch(5)
    histories = []
    for data in (known, known.filter(lambda *_: True)):
        keras.utils.set_random_seed(0)
        pair = []
        for _ in range(2):
            inputs = keras.Input((4,))
            ends = [keras.layers.Dense(2, name=name)(inputs) for name in "ab"]
            pair.append(keras.Model(inputs, ends))
        model = kd.Distiller(*pair, [[kd.losses.KLDivergence()] * 2])
        model.compile("sgd", [SparseCE(from_logits=True)] * 2, evaluate_distillation=True)
        histories.append(model.fit(data, epochs=2, validation_data=data, verbose=0).history)
    assert histories[0] == histories[1] and "val_a_loss" in histories[0]
