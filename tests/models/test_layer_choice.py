import keras
import pytest
from keras import layers

from keras_kd.compression.pruning.prune import Prune
from keras_kd.compression.stages.kernels import prunable_weights
from keras_kd.models.layer_choice import LayerChoice


def _nested():
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(2, 3, name="conv1")(image)
    x = layers.Conv2D(2, 3, name="conv2")(layers.DepthwiseConv2D(3, name="depthwise")(x))
    backbone = keras.Model(image, x, name="backbone")
    inputs = keras.Input((8, 8, 1))
    x = layers.GlobalAveragePooling2D()(backbone(inputs))
    return keras.Model(inputs, layers.Dense(3, name="logits")(x), name="student")


@keras.saving.register_keras_serializable(package="tests")
def is_dense(layer):
    return isinstance(layer, layers.Dense)


@pytest.mark.parametrize(
    ("chosen", "exclude", "expected"),
    [
        (None, None, {"backbone/conv1", "backbone/conv2", "logits"}),
        ("conv1", None, {"backbone/conv1"}),
        (["backbone/conv*"], None, {"backbone/conv1", "backbone/conv2"}),
        (None, ["logits"], {"backbone/conv1", "backbone/conv2"}),
        ("conv?", "backbone/conv2", {"backbone/conv1"}),
        (is_dense, None, {"logits"}),
        (None, is_dense, {"backbone/conv1", "backbone/conv2"}),
    ],
)
def test_layers_are_chosen_and_spared(chosen, exclude, expected):
    choice = LayerChoice("Prune", chosen, exclude)
    kernels, skipped = prunable_weights(_nested(), choice)
    assert set(kernels) == expected
    for path in {"backbone/conv1", "backbone/conv2", "logits"} - expected:
        assert skipped[path] in ("it is excluded by `exclude`", "it is not among `layers`")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": ["conv3"]}, r"`layers` names 'conv3'.*no such layer.*backbone/conv1"),
        ({"exclude": ["convolution*"]}, "`exclude` names 'convolution\\*'"),
        ({"layers": ["depthwise", "conv1"]}, "TF-MOT does not prune DepthwiseConv2D. Remove it"),
        ({"layers": "conv1", "exclude": "conv1"}, "finds no kernel to prune|it is excluded"),
    ],
)
def test_names_that_cannot_be_treated_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Prune(**arguments).plan(_nested()).check()


def test_other_kinds_are_refused():
    with pytest.raises(TypeError, match="a function that takes a layer"):
        Prune(layers=3)


def test_config_round_trip():
    stage = Prune(layers=is_dense, exclude=["a"])
    copied = Prune.from_config(stage.get_config())
    assert copied.choice.layers is is_dense and copied.choice.exclude == ["a"]
    assert Prune.from_config(stage.get_config()).get_config() == stage.get_config()
