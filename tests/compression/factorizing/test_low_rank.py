import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.compression.compress import compress
from keras_kd.compression.factorizing.factorization import factorizations
from keras_kd.compression.factorizing.low_rank import LowRank, plan_by_ratio, ways_of
from keras_kd.compression.factorizing.split_layers import split_layers
from keras_kd.compression.pruning.prune import Prune
from keras_kd.compression.quantizing.quantize_aware import QuantizeAware
from keras_kd.models.layer_choice import LayerChoice


def _distiller(student, hints=()):
    teacher = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(3)], name="teacher"
    )
    distiller = kd.Distiller(teacher, student, [kd.losses.KLDivergence(), *hints])
    distiller.compile(
        "adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return distiller


def _randomize(model):
    generator = np.random.default_rng(0)
    model.set_weights([generator.normal(0, 0.4, w.shape) for w in model.get_weights()])
    return model


def _nested():
    """Nested twice, a shared layer, operators, strides, groups, a Sequential inside."""
    image = keras.Input((12, 12, 4), name="image")
    x = layers.Conv2D(8, (3, 5), strides=(2, 1), padding="same", activation="relu", name="conv")(
        image
    )
    shared = layers.Conv2D(8, 3, padding="same", dilation_rate=2, use_bias=False, name="shared")
    x = shared(x) + shared(x * 2.0)
    x = layers.Conv2D(12, 3, groups=2, padding="same", activation="gelu", name="grouped")(x)
    head = keras.Sequential(
        [keras.Input((12,)), layers.Dense(9, activation="tanh", name="a"), layers.Dense(9)],
        name="head",
    )
    backbone = keras.Model(image, x, name="backbone")
    inputs = keras.Input((12, 12, 4))
    x = backbone(inputs)
    x = keras.ops.mean(x, (1, 2))
    return _randomize(keras.Model(inputs, [head(x), head(x + 1.0)], name="student"))


def _sequence():
    inputs = keras.Input((10, 6))
    x = layers.Conv1D(8, 4, padding="causal", activation="relu", name="causal")(inputs)
    x = layers.EinsumDense("abc,cde->abde", (None, 2, 4), bias_axes="de", name="project")(x)
    x = layers.EinsumDense("abde,def->abf", (None, 7), bias_axes="f", name="join")(x)
    x = layers.GlobalAveragePooling1D()(x)
    x = layers.EinsumDense("af,gf->ag", (7,), name="turned")(x)
    x = layers.EinsumDense("ag,g->ag", (7,), name="scale")(x)
    return _randomize(keras.Model(inputs, layers.Dense(5, name="logits")(x)))


def _volume():
    return _randomize(
        keras.Sequential(
            [keras.Input((5, 5, 5, 2)), layers.Conv3D(3, 3, strides=2, name="conv"),
             layers.Flatten(), layers.Dense(4, name="logits")]
        )
    )  # fmt: skip


def _outputs(model, x):
    return [np.asarray(y) for y in keras.tree.flatten(model(x, training=False))]


@pytest.mark.parametrize(
    ("build", "shape", "split"),
    [
        (_nested, (12, 12, 4), 5),
        (_sequence, (10, 6), 5),
        (_volume, (5, 5, 5, 2), 2),
    ],
)
@pytest.mark.parametrize("kind", ["channel", "spatial"])
def test_equal_at_full_rank(build, shape, split, kind):
    model = build()
    ways, _ = ways_of(model, LayerChoice("LowRank"))
    plan = {}
    for path, found in ways.items():
        way = next((w for w in found if w.kind == kind), found[0])
        plan[path] = (way, way.full_rank)
    rebuilt, parts = split_layers(model, plan)
    assert len(parts) == split
    assert len(rebuilt.weights) == len(model.weights) + split
    x = np.random.default_rng(1).normal(size=(3, *shape)).astype("float32")
    for ours, theirs in zip(_outputs(rebuilt, x), _outputs(model, x), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("shape", [(9, 7), (7, 9)])
def test_truncated_kernels_are_those_of_numpy(shape):
    layer = layers.Dense(shape[1])
    layer.build((None, shape[0]))
    kernel = np.random.default_rng(0).normal(size=shape)
    layer.set_weights([kernel, np.zeros(shape[1])])
    (way,) = factorizations(layer)
    u, s, v = np.linalg.svd(kernel.astype("float32").astype("float64"), full_matrices=False)
    first, second = way.make(3)
    np.testing.assert_allclose(first @ second, (u[:, :3] * s[:3]) @ v[:3], atol=1e-9)
    np.testing.assert_allclose(way.singular_values, s, rtol=1e-10)
    assert way.parameters(3) == 3 * (9 + 7) and way.full_rank == 7
    energies = np.cumsum(s**2) / (s**2).sum()
    for rank in range(1, 8):
        assert way.energy(rank) == pytest.approx(energies[rank - 1])
        assert way.rank_of(energies[rank - 1] - 1e-6) == rank
    assert way.rank_of(1.0) == 7


def test_a_kernel_of_low_rank_is_found_and_nothing_is_lost(data):
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="wide")(inputs)
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="low")(x)
    x = layers.Dense(32, name="hidden")(layers.Flatten()(x))
    student = keras.Model(inputs, layers.Dense(3, name="logits")(x))
    generator = np.random.default_rng(0)
    low = student.get_layer("low")
    factors = generator.normal(size=(3 * 16, 2)), generator.normal(size=(2, 3 * 16))
    # Vertical times horizontal: of rank 2 in that way only.
    kernel = (factors[0] @ factors[1]).reshape(3, 16, 3, 16).transpose(0, 2, 1, 3) * 0.1
    low.set_weights([kernel, generator.normal(size=16)])
    result = compress(
        _distiller(student),
        data,
        stages=[LowRank(0.9999, epochs=0, exclude="hidden")],
        verbose=0,
    )
    records = {record.name: record for record in result.layers}
    assert records["low"].done[0].startswith("split at rank 2 of 48 (spatial), 192 of 2304 weights")
    assert records["low"].shapes == ((3, 1, 16, 2), (1, 3, 2, 16), (16,))
    assert records["low"].parameters == 192 + 16
    assert records["hidden"].not_done == ("not split: it is excluded by `exclude`",)
    assert "save no weight" in records["logits"].not_done[0]
    assert result.count_params() == result.model.count_params() < student.count_params()
    x = next(iter(data))[0]
    np.testing.assert_allclose(result(x), student(x), atol=1e-5 * np.abs(student(x)).max())
    assert result.history["low_rank"] == {}
    assert isinstance(result.model.get_layer("low_low_rank"), layers.Conv2D)


@pytest.mark.promise
def test_full_rank_by_force_through_compress(data):
    student = _randomize(
        keras.Sequential(
            [keras.Input((8, 8, 1)), layers.Conv2D(6, 3, name="conv"), layers.Flatten(),
             layers.Dense(3, name="logits")]
        )
    )  # fmt: skip
    stage = LowRank(1.0, epochs=0, force=True)
    result = compress(_distiller(student), data, stages=[stage], verbose=0)
    assert isinstance(result.model, keras.Sequential)
    assert [layer.name for layer in result.model.layers if layer.weights] == [
        "conv_low_rank", "conv", "logits_low_rank", "logits"
    ]  # fmt: skip
    x = next(iter(data))[0]
    np.testing.assert_allclose(result(x), student(x), atol=1e-5 * np.abs(student(x)).max())


def test_ratio_and_budget_are_met():
    model = _nested()
    ways, _ = ways_of(model, LayerChoice("LowRank"))
    for path, (way, rank) in plan_by_ratio(ways, 0.5).items():
        assert way.parameters(rank) <= 0.5 * way.kernel_size, path
        best = max(w.energy(int(0.5 * w.kernel_size / w.parameters_per_rank)) for w in ways[path])
        assert way.energy(rank) == pytest.approx(best)
    total = model.count_params()
    for part in (0.9, 0.6, 0.4):
        stage = LowRank(max_parameters=int(part * total))
        smaller = stage.plan(model).preview()
        assert part * total * 0.8 < smaller.count_params() <= part * total
    with pytest.raises(ValueError, match=r"cannot bring the student down to max_parameters=50"):
        LowRank(max_parameters=50).plan(model).check()


@pytest.mark.promise
def test_taught_after_it_with_a_hint_at_the_old_name(data):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3, name="conv")(inputs)
    x = layers.Conv2D(8, 3, activation="relu", name="features")(x)
    student = keras.Model(inputs, layers.Dense(3, name="logits")(layers.Flatten()(x)))
    teacher = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Conv2D(8, 5, name="features"), layers.Flatten(),
         layers.Dense(3)]
    )  # fmt: skip
    distiller = kd.Distiller(
        teacher, student, [kd.losses.KLDivergence(), kd.Hint("features", "features")]
    )
    distiller.compile("adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = [w.copy() for w in student.get_weights()]
    result = compress(
        distiller,
        data,
        validation_data=data,
        stages=[LowRank(ratio=0.6, epochs=2), Prune(0.5, layers="features*")],
        verbose=0,
    )
    assert result.history["low_rank"]["fit_net_features"][0] > 0
    assert len(result.history["low_rank"]["val_loss"]) == 2
    for now, then in zip(student.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    record = {record.name: record for record in result.layers}["features"]
    assert record.sparsity == pytest.approx(0.5, abs=0.03), "both factors are pruned"
    assert any(text.startswith("'features_low_rank' pruned to") for text in record.done)


@pytest.mark.promise
def test_saved_loaded_quantized(data, tmp_path):
    keras.utils.set_random_seed(0)
    student = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Conv2D(8, 3, activation="relu", name="conv"),
         layers.Conv2D(8, 3, name="second"), layers.Flatten(), layers.Dense(3, name="logits")]
    )  # fmt: skip
    stages = [LowRank(0.7, epochs=0, exclude="logits"), QuantizeAware()]
    low_rank = compress(_distiller(student), data, stages=stages[:1], verbose=0)
    low_rank.save(tmp_path / "model.keras")
    x = next(iter(data))[0]
    loaded = kd.load_compressed(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(x), low_rank(x), atol=1e-6)
    assert loaded.layers == low_rank.layers
    quantized = compress(_distiller(student), data, stages=stages, verbose=0)
    records = {record.name: record for record in quantized.layers}
    assert records["second"].bits == 8
    assert (
        records["second"].parameters
        == low_rank.model.get_layer("second").count_params()
        + low_rank.model.get_layer("second_low_rank").count_params()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"energy": 0.0}, "`energy`"),
        ({"energy": 95}, "energy=95"),
        ({"ratio": 1.5}, "`ratio` must be"),
        ({"max_parameters": 0}, "whole number of at least 1"),
        ({"energy": 0.9, "ratio": 0.5}, "give one of.*energy=0.9 and ratio=0.5"),
        ({"max_parameters": 10, "force": True}, "Remove one of them"),
        ({"epochs": -1}, "at least 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        LowRank(**arguments)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([Prune(), LowRank()], "LowRank cannot follow Prune: it replaces kernels"),
        ([QuantizeAware(), LowRank()], "LowRank cannot follow QuantizeAware"),
        ([LowRank(name="a"), LowRank(name="b")], "LowRank appears twice"),
        ([LowRank(layers="flatten*")], "no such layer"),
        ([LowRank(0.999)], "saves no weight in model 'small' with energy=0.999"),
    ],
)
def test_refused_before_any_training(stages, message, data):
    student = _randomize(
        keras.Sequential(
            [keras.Input((8, 8, 1)), layers.Flatten(name="flat"), layers.Dense(3)], name="small"
        )
    )
    if isinstance(stages[0], LowRank) and len(stages) == 2:
        stages[0].force = stages[1].force = True
    with pytest.raises(ValueError, match=message):
        compress(_distiller(student), data, stages=stages, verbose=0)


def test_a_subclassed_student_is_refused(data):
    class Net(keras.Model):
        def __init__(self):
            super().__init__(name="net")
            self.dense = layers.Dense(3)

        def call(self, x):
            return self.dense(keras.ops.mean(x, (1, 2)))

    net = Net()
    net(np.zeros((1, 8, 8, 1), "float32"))
    with pytest.raises(ValueError, match="model 'net' \\(Net\\) has not"):
        compress(_distiller(net), data, stages=[LowRank()], verbose=0)


def test_config_round_trip():
    stage = LowRank(ratio=0.5, epochs=0, exclude="a")
    assert LowRank.from_config(stage.get_config()).get_config() == stage.get_config()


def _attention():
    inputs = keras.Input((8, 16))
    x = layers.MultiHeadAttention(2, 8, name="attention")(inputs, inputs)
    return inputs, layers.Dense(16, name="dense")(x)


def _zero_kernel():
    inputs, x = _attention()
    return inputs, layers.Dense(16, kernel_initializer="zeros", name="untrained")(x)


def _positions():
    inputs = keras.Input((8,), dtype="int32")
    x = layers.Embedding(9, 16, name="words")(inputs)
    return inputs, layers.GRU(16, reset_after=True)(x)


@pytest.mark.parametrize("build", [_attention, _zero_kernel, _positions])
def test_what_nothing_has_trained_yet_is_not_pruned(build):
    inputs, x = build()
    model = keras.Model(inputs, layers.Dense(16, name="out")(x))
    assert kd.check(model, [LowRank(0.5)], exports=[]).ok
    kernel = model.get_layer("out").kernel
    kernel.assign(np.where(np.arange(16) % 2, 0.0, np.asarray(kernel)))
    (problem,) = kd.check(model, [LowRank(0.5)], exports=[]).problems
    assert "pruned" in problem.message
