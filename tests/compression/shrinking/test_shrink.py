import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_kd as kd
from keras_kd.demo.networks import residual_network


@pytest.fixture
def wide():
    keras.utils.set_random_seed(0)
    return residual_network((8, 8, 1), 3, [8, 8], [1, 2], "wide")


def _data():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 48)
    images = generator.normal(0, 0.3, (48, 8, 8, 1)).astype("float32")
    images[np.arange(48), :, labels * 2] += 1.5
    return tf.data.Dataset.from_tensor_slices((images, labels.astype("int32"))).batch(16)


def _distiller(student, *hints, **arguments):
    teacher = residual_network((8, 8, 1), 3, [8], [1], "teacher")
    losses = [kd.losses.KLDivergence(temperature=4.0), *hints]
    distiller = kd.Distiller(teacher, student, losses, **arguments)
    distiller.compile(
        "adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return distiller


def test_the_student_is_smaller_and_taught(wide):
    data = _data()
    before = wide.get_weights()
    stage = kd.Shrink(0.5, epochs=1)
    compressed = kd.compress(
        _distiller(wide), data, validation_data=data, stages=[stage], verbose=0
    )
    records = {record.name: record for record in compressed.layers}
    assert records["stem_conv"].shapes == ((3, 3, 1, 4),)
    assert records["stem_conv"].done == ("shrunk from 8 to 4 channels",)
    assert records["logits"].shapes == ((4, 3), (3,))
    assert records["logits"].not_done == ("not shrunk: its channels are the model's output",)
    assert compressed.count_params() == compressed.model.count_params()
    assert kd.shrink_plan(wide, 0.5).parameters == (wide.count_params(), compressed.count_params())
    assert {"distillation_loss", "val_accuracy"} <= set(compressed.history["shrink"])
    for now, then in zip(wide.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_without_epochs_it_is_what_shrink_returns(wide):
    stages = [kd.Shrink(flops_ratio=0.4, epochs=0, scope="global")]
    compressed = kd.compress(_distiller(wide), _data(), stages=stages, verbose=0)
    alone = kd.shrink(wide, flops_ratio=0.4, scope="global")
    for ours, theirs in zip(compressed.model.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert compressed.history == {"shrink": {}}


@pytest.mark.promise
def test_hints_get_projections_for_the_new_width(wide):
    # As wide as the teacher before, so without a projection; half as wide afterwards.
    hint = kd.Hint("block1_1_out", "block2_2_out")
    distiller = _distiller(wide, hint)
    compressed = kd.compress(
        distiller,
        _data(),
        stages=[kd.Shrink(0.5, epochs=1)],
        verbose=0,
    )
    assert compressed.history["shrink"]["fit_net_block2_2_out"][0] > 0
    assert hint.layers == []
    assert hint.refitted([(None, 4, 4, 8)]) is hint
    (projection,) = hint.refitted([(None, 4, 4, 4)]).layers
    assert projection.kernel.shape == (4, 8)


def test_hints_with_parameters_or_a_layer_are_made_anew():
    given = layers.Dense(8)
    for loss, projection in ((kd.losses.VID(), "auto"), (None, given)):
        hint = kd.Hint("a", "b", loss=loss, projection=projection)
        hint.build([(None, 4, 4, 8)], [(None, 4, 4, 6)])
        other = hint.refitted([(None, 4, 4, 3)])
        assert other is not hint
        features = [np.ones((2, 4, 4, 8), "float32")], [np.ones((2, 4, 4, 3), "float32")]
        assert np.isfinite(float(other(*features)))
    assert given.kernel.shape == (6, 8)


@pytest.mark.promise
def test_dropped_blocks_take_their_hints_along(wide):
    distiller = _distiller(wide, kd.Hint("block1_1_out", "block2_2_2_conv"))
    compressed = kd.compress(distiller, _data(), stages=[kd.Shrink(drop="block2_2_add")], verbose=0)
    assert "fit_net_block2_2_2_conv" not in compressed.history["shrink"]
    records = {record.name: record for record in compressed.layers}
    assert records["block2_2_1_conv"].done == ("dropped",)
    assert records["block2_2_1_conv"].parameters == 0


@pytest.mark.promise
def test_taylor_asks_the_objective(wide):
    # The second half of the stem leads nowhere, though its weights are the largest.
    distiller = _distiller(wide)
    kernel = np.array(wide.get_layer("stem_conv").kernel)
    kernel[..., :4] *= 30
    wide.get_layer("stem_conv").kernel.assign(kernel)
    for layer in wide.layers:
        if isinstance(layer, layers.Conv2D) and layer.kernel.shape[2] == 8:
            values = np.array(layer.kernel)
            if layer.name.startswith(("block1_1_1", "block2_1_1", "block2_1_shortcut")):
                values[:, :, :4] = 0
            layer.kernel.assign(values)
    stage = kd.Shrink(
        0.5, epochs=0, importance="taylor", batches=2, layers=["stem_conv", "*_2_conv"]
    )
    compressed = kd.compress(distiller, _data(), stages=[stage], verbose=0)
    np.testing.assert_array_equal(compressed.model.get_layer("stem_conv").kernel, kernel[..., 4:])


@pytest.mark.promise
def test_later_stages_follow():
    wide = residual_network((8, 8, 1), 3, [8], [1], "wide")
    stages = [kd.Shrink(0.5, epochs=0), kd.Prune(0.5), kd.QuantizeAware()]
    compressed = kd.compress(_distiller(wide), _data(), stages=stages, verbose=0)
    records = {record.name: record for record in compressed.layers}
    assert records["stem_conv"].bits == 8
    assert records["block1_1_1_conv"].shapes == ((3, 3, 4, 4),)
    assert records["block1_1_1_conv"].sparsity == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("earlier", [kd.Prune(0.5), kd.QuantizeAware()])
def test_order(wide, earlier):
    name = type(earlier).__name__
    with pytest.raises(ValueError, match=f"Shrink cannot follow {name}: it removes"):
        kd.compress(_distiller(wide), _data(), stages=[earlier, kd.Shrink(0.5)], verbose=0)


def test_refusals_come_before_training(wide):
    @keras.saving.register_keras_serializable(package="tests_shrink")
    class Net(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.head = layers.Dense(3)

        def call(self, x):
            return self.head(keras.ops.mean(x, (1, 2)))

    net = Net(name="net")
    net(np.zeros((1, 8, 8, 1), "float32"))
    with pytest.raises(ValueError, match="'net' is a Net, a subclassed model"):
        kd.compress(_distiller(net), _data(), stages=[kd.Shrink(0.5)], verbose=0)
    stages = [kd.Shrink(max_parameters=10)]
    with pytest.raises(ValueError, match=r"cannot be shrunk to 10 parameters.*smallest"):
        kd.compress(_distiller(wide), _data(), stages=stages, verbose=0)


def test_config_round_trip():
    stage = kd.Shrink(
        flops_ratio=0.5, epochs=0, importance="taylor", exclude="stem*", depth=0.2, name="s"
    )
    copied = kd.Shrink.from_config(stage.get_config())
    assert copied.get_config() == stage.get_config()
    assert copied.epochs == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "There is nothing to remove"),
        ({"ratio": 50}, "ratio=50. It is .* ratio=0.5"),
        ({"ratio": 1.0}, "at least 0 and below 1"),
        ({"ratio": "half"}, "fraction of the channels"),
        ({"flops_ratio": -0.1}, "fraction of the FLOPs"),
        ({"depth": 1}, "fraction of the blocks"),
        ({"max_flops": 0}, "`max_flops` must be a number above 0"),
        ({"max_parameters": True}, "`max_parameters` must be a number above 0"),
        ({"ratio": 0.5, "max_flops": 1e6}, "`ratio` .* `max_flops`"),
        ({"max_flops": 1e6, "flops_ratio": 0.5}, "`max_flops` and `flops_ratio`"),
        ({"ratio": 0.5, "importance": "l2"}, '"l1", "batch_norm", "taylor"'),
        ({"ratio": 0.5, "scope": "local"}, '"uniform", "global"'),
        ({"ratio": 0.5, "reduction": "max"}, '"mean", "sum"'),
        ({"ratio": 0.5, "min_channels": 0}, "`min_channels` must be a whole number"),
        ({"ratio": 0.5, "batches": 1.5}, "`batches` must be a whole number"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        kd.Shrink(**arguments)


def test_layers_of_the_wrong_kind():
    with pytest.raises(TypeError, match="Shrink: `layers` must be the name of a layer"):
        kd.Shrink(0.5, layers=3)
