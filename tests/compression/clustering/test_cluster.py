import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.compression.clustering.cluster import Cluster, ClusteredKernels
from keras_kd.compression.compress import compress
from keras_kd.compression.pruning.prune import Prune
from keras_kd.compression.quantizing.quantize_aware import QuantizeAware
from keras_kd.compression.running.epoch_backup import drawn_from
from keras_kd.models.tfmot import import_tfmot


def _distiller(student, weight=0.5, hints=()):
    teacher = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(3)], name="teacher"
    )
    distiller = kd.Distiller(teacher, student, [kd.losses.KLDivergence(), *hints], None, weight)
    distiller.compile(
        "adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return distiller


def _student():
    """A nested student with a shared layer and one that TF-MOT does not cluster."""
    keras.utils.set_random_seed(1)
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(6, 3, activation="relu", name="conv")(image)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    shared = layers.Conv2D(6, 1, name="shared")
    backbone = keras.Model(image, shared(layers.ReLU()(shared(x))), name="backbone")
    inputs = keras.Input((8, 8, 1))
    x = layers.BatchNormalization(name="norm")(backbone(inputs))
    x = layers.Dense(10, activation="relu", name="hidden")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(3, name="logits")(x), name="student")


def _kernels(model):
    backbone = model.get_layer("backbone")
    return {
        "backbone/conv": backbone.get_layer("conv").get_weights()[0],
        "backbone/depthwise": backbone.get_layer("depthwise").get_weights()[0],
        "backbone/shared": backbone.get_layer("shared").get_weights()[0],
        "hidden": model.get_layer("hidden").get_weights()[0],
        "logits": model.get_layer("logits").get_weights()[0],
    }


def test_few_values_a_kernel_and_a_keras_3_model(data):
    student = _student()
    distiller = _distiller(student)
    before = [w.copy() for w in student.get_weights()]
    result = compress(
        distiller,
        data,
        validation_data=data,
        stages=[Cluster(5, epochs=2, learning_rate=1e-2)],
        verbose=0,
    )
    assert isinstance(result.model, keras.Model) and result.model.get_layer("backbone")
    records = {record.name: record for record in result.layers}
    for path, kernel in _kernels(result.model).items():
        if path == "backbone/depthwise":
            assert records[path].clusters is None
            assert records[path].not_done == (
                "not clustered: TF-MOT does not cluster DepthwiseConv2D",
            )
            continue
        assert 2 <= len(np.unique(kernel)) <= 5, path
        assert records[path].clusters == len(np.unique(kernel))
        assert records[path].done == (f"clustered to {len(np.unique(kernel))} values",)
    trained = zip(result.model.get_weights(), before, strict=True)
    assert all(np.abs(now - then).max() > 0 for now, then in trained), "everything is trained"
    history = result.history["cluster"]
    assert len(history["val_accuracy"]) == 2 and history["distillation_loss"][0] > 0
    for now, then in zip(student.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    assert result.evaluate(data)["accuracy"] == pytest.approx(history["val_accuracy"][-1])


@pytest.mark.promise
def test_values_equal_those_of_tf_mot(data):
    def build(module):
        return module.Sequential(
            [
                module.layers.InputLayer((8, 8, 1)),
                module.layers.Flatten(),
                module.layers.Dense(8, activation="relu", name="hidden"),
                module.layers.Dense(3, name="logits"),
            ]
        )

    clustering = import_tfmot().clustering.keras
    tf_keras = pytest.importorskip("tf_keras")
    keras.utils.set_random_seed(2)
    student, twin = build(keras), build(tf_keras)
    twin.set_weights(student.get_weights())
    twin = clustering.cluster_weights(twin, 6, clustering.CentroidInitialization.LINEAR)
    twin.compile(
        tf_keras.optimizers.SGD(0.1),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    twin.fit(data, epochs=2, verbose=0, shuffle=False)
    twin = clustering.strip_clustering(twin)

    stage = Cluster(6, 2, initialization="linear", optimizer=keras.optimizers.SGD(0.1))
    result = compress(_distiller(student, weight=1.0), data, stages=[stage], verbose=0)
    for ours, theirs in zip(result.model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("initialization", ["kmeans++", "density", "linear", "random"])
@pytest.mark.promise
def test_a_channel_may_have_values_of_its_own(data, initialization):
    student = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, name="wide"),
            layers.Conv2D(5, 3, use_bias=initialization == "linear", name="conv"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, name="logits"),
        ]
    )
    stages = [Cluster(4, per_channel=True, initialization=initialization, learning_rate=1e-2)]
    result = compress(_distiller(student), data, stages=stages, verbose=0)
    kernel = result.model.get_layer("conv").get_weights()[0]
    assert max(len(np.unique(kernel[..., c])) for c in range(5)) <= 4
    assert len(np.unique(kernel)) > 4
    records = {record.name: record for record in result.layers}
    assert 2 <= records["conv"].clusters <= 4
    assert records["conv"].done[0].endswith("values a channel")
    assert len(np.unique(result.model.get_layer("logits").get_weights()[0])) <= 4


@pytest.mark.promise
@pytest.mark.parametrize("per_channel", [False, True])
def test_zeros_stay_zero(data, per_channel):
    student = _student()
    pruned = compress(_distiller(student), data, stages=[Prune(0.6)], verbose=0).model
    # A channel without a single weight, for which TF-MOT finds no centroids.
    conv = pruned.get_layer("backbone").get_layer("conv")
    kernel, bias = conv.get_weights()
    kernel[..., 2] = 0.0
    conv.set_weights([kernel, bias])
    before = _kernels(pruned)
    result = compress(
        _distiller(pruned),
        data,
        stages=[Cluster(5, 2, per_channel=per_channel, exclude="hidden", learning_rate=1e-2)],
        verbose=0,
    )
    records = {record.name: record for record in result.layers}
    for path, kernel in _kernels(result.model).items():
        zeros = before[path] == 0
        assert (kernel[zeros] == 0).all(), path
        assert (kernel != 0).any(), path
        if path not in ("hidden", "backbone/depthwise"):
            assert zeros.any()
            groups = np.moveaxis(kernel, -1, 0) if per_channel and kernel.ndim == 4 else [kernel]
            assert max(len(np.unique(group)) for group in groups) <= 5, path
    assert records["hidden"].clusters is None
    assert records["hidden"].not_done[-1] == "not clustered: it is excluded by `exclude`"


@pytest.mark.promise
def test_pruned_and_clustered_in_one_pipeline(data):
    stages = [Prune(0.5), Cluster(4, learning_rate=1e-2)]
    result = compress(_distiller(_student()), data, stages=stages, verbose=0)
    records = {record.name: record for record in result.layers}
    assert records["hidden"].sparsity >= 0.5 and records["hidden"].clusters <= 4
    assert [text.split()[0] for text in records["hidden"].done] == ["pruned", "clustered"]


@pytest.mark.promise
def test_hints_and_layers_inside_of_layers(data):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = layers.Reshape((8, 8))(inputs)
    x = layers.EinsumDense("abc,cd->abd", (None, 6), bias_axes="d", name="einsum")(x)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = layers.LSTM(6, name="lstm")(x)
    student = keras.Model(inputs, layers.Dense(3, name="logits")(x))
    teacher = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Reshape((8, 8)), layers.Dense(6, name="features"),
         layers.Flatten(), layers.Dense(3)]
    )  # fmt: skip
    hint = kd.Hint("features", "einsum")
    distiller = kd.Distiller(teacher, student, [kd.losses.KLDivergence(), hint])
    distiller.compile("adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    result = compress(distiller, data, stages=[Cluster(4, learning_rate=1e-2)], verbose=0)
    assert result.history["cluster"]["fit_net_einsum"][0] > 0
    checked = 0
    for layer in result.model.layers:
        for kernel in layer.get_weights():
            if kernel.ndim >= 2 and "bias" not in layer.name and kernel.size > 24:
                assert len(np.unique(kernel)) <= 4, layer.name
                checked += 1
    assert checked == 7


@keras.saving.register_keras_serializable(package="tests")
class _Inner(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(6, name="dense")

    def call(self, x):
        return keras.ops.relu(self.dense(x))


def test_a_subclassed_model_inside_is_clustered(data):
    inputs = keras.Input((8, 8, 1))
    x = _Inner(name="inner")(layers.Flatten()(inputs))
    student = keras.Model(inputs, layers.Dense(3, name="logits")(x))
    result = compress(_distiller(student), data, stages=[Cluster(4)], verbose=0)
    records = {record.name: record for record in result.layers}
    assert records["logits"].clusters <= 4 and records["inner/dense"].clusters <= 4


@keras.saving.register_keras_serializable(package="tests")
class _Unbuilt(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.parts = [layers.Dense(6), layers.Dense(6)]

    def call(self, x):
        for part in self.parts:
            x = keras.ops.tanh(part(x))
        return x


@pytest.mark.promise
def test_layers_of_custom_layers_are_clustered_and_found_again(data, tmp_path):
    inputs = keras.Input((8, 8, 1))
    x = _Unbuilt(name="custom")(layers.Flatten()(inputs))
    student = keras.Model(inputs, layers.Dense(3, name="logits")(x))
    stages = [Cluster(4), QuantizeAware(1, learning_rate=0.01)]
    result = compress(_distiller(student), data, stages=stages, verbose=0)
    for part in result.model.get_layer("custom").parts:
        assert len(np.unique(part.kernel)) <= 4
    result.save(tmp_path / "model.keras")
    images = np.concatenate([x for x, _ in data])
    np.testing.assert_array_equal(
        kd.load_compressed(tmp_path / "model.keras").predict(images), result.predict(images)
    )


@pytest.mark.promise
def test_a_padded_tagger_counts_the_real_positions_alone():
    keras.utils.set_random_seed(0)
    words = np.array([[1, 2, 0, 0, 0, 0, 0, 0]] * 16, "int32")
    tags = np.where(words == 0, 1, 0)
    inputs = keras.Input((8,), dtype="int32")
    x = layers.Embedding(5, 6, mask_zero=True)(inputs)
    student = keras.Model(
        inputs, layers.Dense(2, bias_initializer="ones")(layers.LSTM(6, return_sequences=True)(x))
    )
    student.layers[-1].bias.assign([5.0, 0.0])  # right at words, wrong at padding
    distiller = kd.Distiller(None, student, [], student_loss_weight=1.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("sgd", loss=loss, weighted_metrics=["accuracy"])
    stages = [
        Cluster(4, learning_rate=1e-9, optimizer=None),
        QuantizeAware(learning_rate=1e-9),
    ]
    result = compress(distiller, (words, tags), stages=stages, verbose=0)
    for stage in ("cluster", "quantize_aware"):
        history = result.history[stage]
        assert history["accuracy"][0] == pytest.approx(1.0), stage
        assert history["loss"][0] < 0.5, stage


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"number_of_clusters": 1}, "number_of_clusters=1"),
        ({"number_of_clusters": 257}, "number_of_clusters=257"),
        ({"number_of_clusters": 8.0}, "whole number"),
        ({"number_of_clusters": True}, "whole number"),
        ({"initialization": "kmeans"}, "one of .*'kmeans'"),
        ({"epochs": -1}, "`epochs` must be a whole number"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Cluster(**arguments)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (
            [QuantizeAware(), Cluster()],
            r"Cluster cannot follow QuantizeAware: it moves",
        ),
        ([Cluster(), Prune()], "Prune cannot follow Cluster"),
        ([Cluster(name="a"), Cluster(name="b")], "Cluster appears twice"),
        ([Prune(), Cluster(2)], "must be at least 3"),
        ([Cluster(layers="depthwise")], "TF-MOT does not cluster DepthwiseConv2D"),
        ([Cluster(layers=["conv", "convolution"])], "no such layer"),
        ([Cluster(200)], "a kernel of it has 54 weights, no more than 200 clusters"),
    ],
)
def test_refused_before_any_training(stages, message, data):
    distiller = _distiller(_student())
    with pytest.raises(ValueError, match=message):
        compress(distiller, data, stages=stages, verbose=0)


def test_config_round_trip():
    stage = Cluster(8, 3, "density", True, exclude="a", learning_rate=0.2)
    assert Cluster.from_config(stage.get_config()).get_config() == stage.get_config()


@pytest.mark.parametrize("initialization", ["kmeans++", "density", "linear", "random"])
@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize("zeros", ["none", "some", "and no weight below"])
def test_first_centroids_are_the_same_in_another_process(initialization, by_channel, zeros):
    """A stage that is killed before its first epoch is kept begins again."""
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(3, 3, name="conv")])
    kernel = np.random.default_rng(0).normal(size=(3, 3, 1, 3))
    kernel = np.abs(kernel) if zeros == "and no weight below" else kernel
    kernel[0] *= zeros == "none"

    def centroids(seed, in_process):
        keras.utils.set_random_seed(in_process)
        model.layers[0].kernel.assign(kernel)
        with drawn_from(seed):
            view = ClusteredKernels(
                model, {"conv": [model.layers[0].kernel]}, 4, initialization,
                lambda path: by_channel, zeros != "none",
            )  # fmt: skip
        return np.asarray(view.layers[0].weights[0])

    first = centroids(1, in_process=1)
    assert first.shape == ((3, 4) if by_channel else (4,))
    assert kernel.min() <= first.min() + 0.02 and first.max() <= kernel.max() + 0.02
    np.testing.assert_array_equal(centroids(1, in_process=2), first)
    assert np.any(centroids(2, in_process=1) != first) == (initialization == "random")
    if zeros != "none":
        assert np.all(np.sum(first == 0.0, axis=-1) == 1)
