import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_kd as kd
from keras_kd.system.remaking import made_again, own_kinds


def distance(y, y_pred):
    return ops.mean(ops.abs(y - y_pred), axis=-1)


def wave(x):
    return ops.sin(x)


class Steps(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.5 / (1.0 + ops.cast(step, "float32"))

    def get_config(self):
        return {}


class Own(kd.losses.DistillationLoss):
    def call(self, teacher, student, labels=None):
        return ops.mean(ops.square(teacher - student))


def test_functions_and_classes_that_are_held_need_not_be_registered():
    metric = keras.metrics.MeanMetricWrapper(distance, name="far")
    metric.update_state(np.ones((1, 1)), np.full((1, 1), 3.0))
    made = made_again(metric)
    assert (made.name, float(made.result()), float(metric.result())) == ("far", 0.0, 2.0)
    made.update_state(np.ones((1, 1)), np.full((1, 1), 4.0))
    assert float(made.result()) == 3.0
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(Steps(), momentum=0.5))
    inner = made_again(optimizer).inner_optimizer
    assert (inner.momentum, float(inner.learning_rate)) == (0.5, 0.5)
    layer = made_again(layers.Dense(3, activation=wave, name="dense"), units=4)
    assert (layer.name, layer.units, layer.activation) == ("dense", 4, wave)
    assert own_kinds(layer) == {"wave": wave}
    assert isinstance(kd.losses.ForegroundWeighted(Own()).fresh().loss, Own)


def test_what_cannot_be_made_again_is_named():
    with pytest.warns(UserWarning, match="lambda"):
        metric = keras.metrics.MeanMetricWrapper(lambda y, y_pred: y - y_pred, name="apart")
        with pytest.raises(ValueError, match=r"'apart' \(MeanMetricWrapper\).*named function"):
            made_again(metric)


def test_a_run_with_functions_that_are_not_registered_is_resumed(tmp_path):
    keras.utils.set_random_seed(0)
    student = keras.Sequential(
        [keras.Input((4,)), layers.Dense(8, activation=wave), layers.Dense(2, name="logits")]
    )
    metrics = [keras.metrics.MeanMetricWrapper(distance, name="far")]
    student.compile("sgd", "mse", metrics=metrics)
    data = np.ones((8, 4), "float32"), np.zeros((8, 2), "float32")
    stages = [kd.Prune(0.5, epochs=1, optimizer=keras.optimizers.SGD(Steps()))]
    arguments = {"stages": stages, "path": tmp_path / "run", "verbose": 0}
    runs = [kd.compress(student, data, **arguments) for _ in range(2)]
    assert runs[0].history == runs[1].history and "far" in runs[0].history["prune"]
    assert runs[1].model.layers[0].activation is wave


def test_peers_have_metrics_of_functions_that_are_not_registered():
    peers = [keras.Sequential([keras.Input((4,)), layers.Dense(2)]) for _ in range(2)]
    model = kd.MutualDistiller(peers, [kd.losses.LogitsMSE()])
    model.compile("sgd", "mse", metrics=[keras.metrics.MeanMetricWrapper(distance, name="far")])
    history = model.fit(np.ones((8, 4)), np.zeros((8, 2)), verbose=0).history
    assert {"peer_0_far", "peer_1_far"} <= history.keys()
