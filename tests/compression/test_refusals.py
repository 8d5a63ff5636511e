"""What a stage refuses, `check` says in the same words, and `compress` before training."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd


def network(*more, trainable=True, width=6):
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(width, 3, name="conv", trainable=trainable)(image)
    x = layers.BatchNormalization(name="bn", trainable=trainable)(x)
    for layer in more:
        x = layer(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(3, name="logits", trainable=trainable)(x))


class Sub(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(3)

    def call(self, x):
        return self.dense(keras.ops.mean(x, (1, 2)))

    def get_config(self):
        return {"name": self.name}


class Mystery(layers.Layer):
    """A layer whose configuration says nothing of its argument."""

    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        return self.factor * x


def subclassed():
    model = Sub(name="sub")
    model(np.zeros((1, 8, 8, 1), "float32"))
    return model


def frozen():
    return network(trainable=False)


def pruned():
    model = network()
    kernel = model.get_layer("conv").get_weights()[0]
    kernel[..., :3] = 0.0
    model.get_layer("conv").set_weights([kernel, *model.get_layer("conv").get_weights()[1:]])
    return model


def mysterious():
    return network(Mystery(2.0, name="mystery"))


def without_kernels():
    image = keras.Input((8, 8, 1))
    x = layers.GlobalAveragePooling2D()(image)
    x = layers.Concatenate()([x, x, x])
    return keras.Model(image, layers.BatchNormalization(name="bn")(x))


REFUSED = {
    "prune without kernels": (without_kernels, lambda: [kd.Prune(0.5)]),
    "prune what is frozen": (frozen, lambda: [kd.Prune(0.5)]),
    "prune an unknown layer": (network, lambda: [kd.Prune(0.5, layers="nothing")]),
    "prune a layer that cannot be": (network, lambda: [kd.Prune(0.5, layers="bn")]),
    "spare an unknown layer": (network, lambda: [kd.Prune(0.5, exclude=["conv", "nothing"])]),
    "low rank of a subclassed model": (subclassed, lambda: [kd.LowRank(0.5)]),
    "low rank that saves nothing": (network, lambda: [kd.LowRank(1.0)]),
    "low rank after pruning": (pruned, lambda: [kd.LowRank(0.5)]),
    "low rank below rank 1": (network, lambda: [kd.LowRank(max_parameters=10)]),
    "low rank of an unknown layer": (network, lambda: [kd.LowRank(0.5, layers="nothing")]),
    "cluster what is frozen": (frozen, lambda: [kd.Cluster(4)]),
    "cluster small kernels": (network, lambda: [kd.Cluster(256)]),
    "two clusters after pruning": (pruned, lambda: [kd.Cluster(2)]),
    "two clusters after Prune": (network, lambda: [kd.Prune(0.5), kd.Cluster(2)]),
    "cluster an unknown layer": (network, lambda: [kd.Cluster(4, exclude="nothing")]),
    "quantize without kernels": (without_kernels, lambda: [kd.QuantizeAware()]),
    "shrink a subclassed model": (subclassed, lambda: [kd.Shrink(0.5)]),
    "shrink without channels": (without_kernels, lambda: [kd.Shrink(0.5)]),
    "shrink an unknown layer": (network, lambda: [kd.Shrink(0.5, layers="nothing")]),
    "shrink below one channel": (network, lambda: [kd.Shrink(max_parameters=1)]),
    "shrink below the FLOPs of one": (network, lambda: [kd.Shrink(max_flops=1)]),
    "drop an unknown block": (network, lambda: [kd.Shrink(drop="nothing")]),
    "drop a part of no blocks": (network, lambda: [kd.Shrink(depth=0.5)]),
    "shrink what cannot be made again": (mysterious, lambda: [kd.Shrink(0.5), kd.Prune(0.5)]),
    "prune after 8 bits": (network, lambda: [kd.QuantizeAware(), kd.Prune(0.5)]),
    "low rank after Prune": (network, lambda: [kd.Prune(0.5), kd.LowRank(0.5)]),
    "cluster twice": (network, lambda: [kd.Cluster(4), kd.Cluster(4, name="again")]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_check_and_compress_refuse_in_the_same_words(name, monkeypatch):
    make, stages = REFUSED[name]
    keras.utils.set_random_seed(0)
    model = make()
    found = kd.check(model, stages(), exports=[])
    teacher = network()
    distiller = kd.Distiller(teacher, model, [kd.losses.KLDivergence()])
    distiller.compile("adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = [weight.copy() for weight in model.get_weights()]
    monkeypatch.setattr(
        "keras_kd.compression.running.stage_runs.StageRuns.run", lambda *_: pytest.fail()
    )
    data = np.zeros((4, 8, 8, 1), "float32"), np.zeros(4, "int32")
    with pytest.raises(ValueError) as caught:
        kd.compress(distiller, data, stages=stages(), verbose=0)
    assert not found.ok
    assert str(caught.value) == found.problems[0].message
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
