from __future__ import annotations

import pytest

from keras_kd.measuring.layer_names import LayerNames

PATHS = ["conv2d", "conv2d_1", "backbone", "backbone/conv", "backbone/bn", "a.b"]


def test_fused_names_and_nested_models() -> None:
    joined = "net/backbone/bn/mul_1;net/backbone/conv/convolution"
    names = LayerNames("net", PATHS, [joined, "net/conv2d/Relu", "net/a.b/Add"])
    assert names.layers(joined) == ["backbone/bn", "backbone/conv"]
    assert names.layers("net/conv2d/Relu") == ["conv2d"]
    assert names.layers("net/a.b/Add") == ["a.b"]
    assert names.layers("StatefulPartitionedCall:0") == []
    assert names.layers("net/backbone/Add") == []  # a nested model is no layer of its own
    assert names.layers("other/conv2d/Relu") == []


def test_numbers_which_tensorflow_adds() -> None:
    # As keras.Model.export wrote them for layers `conv2d` and `conv2d_1`.
    tensors = ["net_1/conv2d_1/convolution", "net_1/conv2d_1_2/convolution1"]
    names = LayerNames("net", PATHS, tensors)
    assert [names.layers(t) for t in tensors] == [["conv2d"], ["conv2d_1"]]
    tensors = ["net/conv2d/convolution", "net/conv2d_1/convolution"]
    names = LayerNames("net", PATHS, tensors)
    assert [names.layers(t) for t in tensors] == [["conv2d"], ["conv2d_1"]]


@pytest.mark.parametrize("count", [3, 12])
def test_every_name_is_another_layer(count: int) -> None:
    paths = [f"conv_{i}" if i else "conv" for i in range(count)]
    # conv takes conv_1, which conv_1 would have had; so does each of the others.
    tensors = ["m/conv_1/x"] + [f"m/conv_{i}_{2 if i == 1 else 1}/x" for i in range(1, count)]
    names = LayerNames("m", paths, tensors)
    assert [names.layers(t) for t in tensors] == [[path] for path in paths]
