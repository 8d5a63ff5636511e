import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.compression.compress import compress
from keras_kd.compression.pruning.prune import Prune
from keras_kd.models.tfmot import import_tfmot


def _small(k=keras):
    layers = k.layers
    return k.Sequential(
        [
            layers.InputLayer((8, 8, 1)),
            layers.Conv2D(6, 3, activation="relu", name="conv"),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.Flatten(),
            layers.Dense(3, name="logits"),
        ]
    )


def _convolutions(k=keras):
    layers = k.layers
    return k.Sequential(
        [
            layers.InputLayer((8, 8, 1)),
            layers.Conv2D(8, 3, strides=2, activation="relu", name="first"),
            layers.Conv2D(4, 3, name="second"),
            layers.Flatten(),
            layers.Dense(3, name="logits"),
        ]
    )


def _dense(k=keras):
    layers = k.layers
    return k.Sequential(
        [
            layers.InputLayer((8, 8, 1)),
            layers.Flatten(),
            layers.Dense(10, activation="relu", name="hidden"),
            layers.Dense(9, name="logits"),
        ]
    )


@pytest.mark.parametrize(
    ("network", "pattern", "sparsities"),
    [
        (_small, {}, {"conv": 0.8, "depthwise": 0.0, "logits": 0.8}),
        # A convolution of one channel has no group to take zeros from.
        (_convolutions, {"sparsity_m_by_n": (2, 4)}, {"first": 0.0, "second": 0.5, "logits": 0.5}),
        (_dense, {"block_size": (1, 4)}, {"hidden": 0.8, "logits": 0.8}),
        (
            _dense,
            {"block_size": (4, 2), "block_pooling_type": "MAX"},
            {"hidden": 0.8, "logits": 0.8},
        ),
    ],
)
@pytest.mark.promise
def test_masks_and_weights_equal_those_of_tf_mot(data, network, pattern, sparsities):
    keras.utils.set_random_seed(3)
    model = network()
    schedules = import_tfmot().sparsity.keras
    tf_keras = pytest.importorskip("tf_keras")
    twin = network(tf_keras)
    twin.set_weights(model.get_weights())
    schedule = schedules.PolynomialDecay(0.1, 0.8, 1, 7, frequency=2)
    twin = schedules.prune_low_magnitude(twin, pruning_schedule=schedule, **pattern)
    twin.compile(
        tf_keras.optimizers.SGD(0.1, momentum=0.9),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    twin.fit(data, epochs=3, verbose=0, callbacks=[schedules.UpdatePruningStep()])
    twin = schedules.strip_pruning(twin)

    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    # Masks of m by n are chosen once, whatever the schedule: `Prune` refuses one.
    given = {} if "sparsity_m_by_n" in pattern else {"schedule": schedule}
    callback = Prune(**given, **pattern).as_callback()
    model.fit(data, epochs=3, verbose=0, shuffle=False, callbacks=[callback])

    for name, sparsity in sparsities.items():
        ours = model.get_layer(name).get_weights()[0]
        theirs = twin.get_layer(name).get_weights()[0]
        np.testing.assert_array_equal(ours == 0, theirs == 0)
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
        assert (ours == 0).mean() == pytest.approx(sparsity, abs=0.06)


def test_pruned_weights_may_come_back(data):
    # As with TF-MOT: the step before an update is not masked.
    keras.utils.set_random_seed(0)
    model = _small()
    schedule = import_tfmot().sparsity.keras.ConstantSparsity(0.8, 1, -1, 1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, jit_compile=False)
    model.optimizer.learning_rate = 1.0
    zeros = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            zeros.append(model.get_layer("logits").get_weights()[0] == 0)

    model.fit(data, epochs=1, verbose=0, callbacks=[Prune(schedule=schedule).as_callback(), Look()])
    assert (zeros[0] & ~zeros[2]).any()
    np.testing.assert_allclose([z.mean() for z in zeros], 0.8, atol=0.01)


def test_one_threshold_over_all_layers(data):
    keras.utils.set_random_seed(0)
    model = _small()
    model.get_layer("conv").kernel.assign(model.get_layer("conv").kernel * 1e-3)
    stage = Prune(0.7, epochs=2, scope="global", learning_rate=1e-6)
    distiller = kd.Distiller(_small(), model, [kd.losses.KLDivergence()])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("sgd", loss=loss, jit_compile=False)
    compressed = compress(distiller, data, stages=[stage], verbose=0)
    conv, _, _, logits = compressed.layers
    total = 54 + 288
    zeros = round(conv.sparsity * 54) + round(logits.sparsity * 288)
    assert zeros == total - round(total * 0.3)
    assert round(conv.sparsity * 54) == 53  # never emptied
    assert conv.done == ("pruned to 98.1% zeros",)
    kept = np.abs(compressed.model.get_layer("logits").get_weights()[0])
    before = np.abs(model.get_layer("logits").get_weights()[0])
    assert before[kept == 0].max() <= before[kept > 0].min() + 1e-4


def test_result_is_a_keras_3_model_with_the_zeros_asked_for(distiller, data):
    before = [w.copy() for w in distiller.student.get_weights()]
    compressed = compress(
        distiller, data, validation_data=data, stages=[Prune(0.75, epochs=2)], verbose=0
    )
    assert isinstance(compressed.model, keras.Model)
    records = {record.name: record for record in compressed.layers}
    for name, record in records.items():
        if record.class_name in ("Conv2D", "Dense"):
            size = int(np.prod(record.shapes[0]))
            assert record.sparsity == pytest.approx(1 - max(1, round(size * 0.25)) / size), name
            assert record.done[0].startswith("pruned to 7")
    assert records["stem_bn"].not_done == ("not pruned: TF-MOT does not prune BatchNormalization",)
    assert compressed.sparsity == pytest.approx(0.75, abs=0.01)
    history = compressed.history["prune"]
    assert len(history["accuracy"]) == len(history["val_accuracy"]) == 2
    assert history["distillation_loss"][0] > 0
    for now, then in zip(distiller.student.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_forward_passes_see_the_masks(data):
    # The last batch before validation leaves unmasked weights behind; validation must not see them.
    model = _small()
    schedule = import_tfmot().sparsity.keras.ConstantSparsity(0.5, 0, -1, 1)
    callback = Prune(schedule=schedule).as_callback()
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen.append((model.get_layer("conv").get_weights()[0] == 0).mean())

        def on_test_batch_begin(self, batch, logs=None):
            seen.append((model.get_layer("conv").get_weights()[0] == 0).mean())

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, jit_compile=False)
    model.fit(data, validation_data=data, epochs=1, verbose=0, callbacks=[callback, Look()])
    np.testing.assert_allclose(seen, 0.5)


def test_early_end_still_reaches_the_sparsity(data):
    model = _small()
    callback = Prune(schedule=Prune(0.9).make_schedule(300)).as_callback()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, jit_compile=False)
    with pytest.warns(UserWarning, match="ended before the schedule reached a sparsity of 90%"):
        model.fit(data, epochs=1, verbose=0, callbacks=[callback])
    assert (model.get_layer("logits").get_weights()[0] == 0).mean() == pytest.approx(0.9, abs=0.01)


@pytest.mark.promise
def test_data_of_unknown_length_is_counted(distiller, data):
    unknown = data.filter(lambda x, y: True)
    compressed = compress(distiller, unknown, stages=[Prune(0.5, epochs=1)], verbose=0)
    assert compressed.sparsity == pytest.approx(0.5, abs=0.02)


@pytest.mark.promise
def test_subclassed_students_are_pruned(data):
    @keras.saving.register_keras_serializable(package="tests")
    class Net(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.blocks = [layers.Conv2D(4, 3, name="a"), layers.Conv2D(4, 3, name="b")]
            self.head = layers.Dense(3, name="head")

        def call(self, x):
            for block in self.blocks:
                x = keras.ops.relu(block(x))
            return self.head(keras.ops.mean(x, (1, 2)))

        def get_config(self):
            return {"name": self.name}

    net = Net(name="net")
    net(np.zeros((1, 8, 8, 1), "float32"))
    distiller = kd.Distiller(_small(), net, [kd.losses.KLDivergence()])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("adam", loss=loss, jit_compile=False)
    compressed = compress(distiller, data, stages=[Prune(0.5, epochs=1)], verbose=0)
    assert isinstance(compressed.model, Net)
    assert [record.sparsity for record in compressed.layers] == [0.5, 0.5, 0.5]


def test_a_model_without_kernels_is_refused(data):
    inputs = keras.Input((8, 8, 1))
    x = layers.BatchNormalization(name="norm")(
        layers.DepthwiseConv2D(3, depth_multiplier=3)(inputs)
    )
    student = keras.Model(inputs, layers.GlobalAveragePooling2D()(x), name="bare")
    distiller = kd.Distiller(_small(), student, [kd.losses.KLDivergence()])
    distiller.compile("adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match=r"no kernel to prune in model 'bare'.*'norm': TF-MOT"):
        compress(distiller, data, stages=[Prune(0.5)], verbose=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 75}, "write Prune\\(0.75\\)"),
        ({"sparsity": 1.0}, "below 1"),
        ({"epochs": -1}, "`epochs` must be a whole number"),
        ({"begin": 0.9, "end": 0.5}, "`begin`"),
        ({"optimizer": keras.optimizers.SGD(), "learning_rate": 1.0}, "Remove `learning_rate`"),
        ({"scope": "model"}, '"layer", "global". Received: scope=\'model\''),
        ({"scope": "global", "block_size": (1, 4)}, "compares single weights"),
        ({"max_layer_sparsity": 0.9}, "Leave it out"),
        ({"scope": "global", "sparsity": 0.9, "max_layer_sparsity": 0.8}, "`max_layer_sparsity`"),
        ({"block_size": 4}, "two whole numbers of at least 1, such as \\(1, 4\\)"),
        ({"block_pooling_type": "avg"}, '"AVG", "MAX"'),
        ({"sparsity_m_by_n": (4, 2)}, "write \\(2, 4\\)"),
        ({"sparsity_m_by_n": "2:4"}, "two whole numbers of at least 1, such as \\(2, 4\\)"),
        ({"sparsity_m_by_n": (2, 4), "block_size": (1, 4)}, "two patterns"),
        ({"sparsity": 0.75, "sparsity_m_by_n": (2, 4)}, "Leave `sparsity` out"),
        ({"schedule": lambda step: (True, 0.5), "sparsity_m_by_n": (2, 4)}, "give `begin`"),
        ({"end": 0.5, "sparsity_m_by_n": (2, 4)}, "Received: end=0.5"),
        ({"frequency": 10, "sparsity_m_by_n": (2, 4)}, "Leave `frequency` out"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Prune(**arguments)


def test_config_round_trip():
    schedules = import_tfmot().sparsity.keras
    stage = Prune(
        0.3,
        epochs=3,
        schedule=schedules.ConstantSparsity(0.4, 2),
        optimizer=keras.optimizers.SGD(0.3, momentum=0.8),
    )
    copied = Prune.from_config(stage.get_config())
    assert copied.get_config() == stage.get_config()
    assert copied.schedule.target_sparsity == 0.4
    assert float(copied.make_optimizer().learning_rate) == pytest.approx(0.3)
    for arguments in (
        {"sparsity_m_by_n": [1, 4], "begin": 0.8},
        {"block_size": [1, 4], "block_pooling_type": "MAX", "layers": ["conv*"]},
        {"scope": "global", "max_layer_sparsity": 0.9, "exclude": ["logits"]},
    ):
        stage = Prune(**arguments)
        config = stage.get_config()
        assert Prune.from_config(config).get_config() == config
        assert {key: config[key] for key in arguments} == {
            key: tuple(value)
            if key in ("sparsity_m_by_n", "block_size")
            else stage.get_config()[key]
            for key, value in arguments.items()
        }


def test_two_of_four_runs_along_the_inputs_of_every_kind_and_spares_embeddings():
    inputs = keras.Input((4,), dtype="int32")
    x = layers.Embedding(9, 8, name="rows")(inputs)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = layers.Conv1DTranspose(8, 2, name="up")(x)
    x = layers.LSTM(4, name="lstm")(x)
    model = keras.Model(inputs, layers.Dense(2, name="out")(x))
    stage = kd.Prune(sparsity_m_by_n=(2, 4))
    plans = stage.plan(model).layers
    assert plans["rows"].action == "keep" and "looked up" in plans["rows"].reason
    callback = stage.as_callback()
    model.compile("sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(np.ones((8, 4), "int32"), np.zeros(8), verbose=0, callbacks=[callback])
    assert np.count_nonzero(model.get_layer("rows").embeddings) == 72
    rows = {
        "up": np.asarray(model.get_layer("up").kernel).reshape(-1, 4),
        "out": np.asarray(model.get_layer("out").kernel).T.reshape(-1, 4),
        "lstm": np.asarray(model.get_layer("lstm").cell.recurrent_kernel).T.reshape(-1, 4),
        "attention": np.asarray(model.get_layer("attention").output_dense.kernel)
        .reshape(8, 8)
        .T.reshape(-1, 4),
    }
    for name, fours in rows.items():
        assert ((fours == 0).sum(-1) == 2).all(), name


@pytest.mark.parametrize(
    "later", [kd.Prune(0.25, layers="b", name="later"), kd.Prune(0.25, name="later")]
)
def test_zeros_stay_zero_in_a_second_stage(later):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(8, name="a"), keras.layers.Dense(2, name="b")]
    )
    model.compile("sgd", loss="mse")
    data = np.random.default_rng(0).normal(size=(32, 8)), np.ones((32, 2))
    result = kd.compress(model, data, stages=[kd.Prune(0.75, 0, layers="a"), later], verbose=0)
    assert [layer.sparsity for layer in result.layers] == [0.75, 0.25]


class Tune(kd.Stage):
    """Trains, and changes nothing else."""

    def make_plan(self, student, earlier):
        return kd.Plan({}, lambda state, teaching: teaching.train_student(state, self))


@pytest.mark.parametrize("use_ema", [False, True])
def test_zeros_stay_zero_whatever_the_optimizer_averages(use_ema, recwarn):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(16, name="a"), keras.layers.Dense(2, name="b")]
    )
    model.compile("sgd", loss="mse")
    data = np.random.default_rng(0).normal(size=(32, 8)), np.ones((32, 2))

    def optimizer():
        return keras.optimizers.SGD(0.05, use_ema=use_ema)

    stages = [
        kd.Prune(0.75, epochs=3, end=0.5, layers="a", optimizer=optimizer()),
        Tune(2, optimizer()),
    ]
    result = kd.compress(model, data, stages=stages, verbose=0)
    assert result.layers[0].sparsity == 0.75
    assert not [w for w in recwarn if "brought back" in str(w.message)]
