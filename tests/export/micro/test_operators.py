import importlib.util
import pathlib

import numpy as np
import pytest

from keras_kd.export.micro.operators import CUSTOM_METHODS, METHODS, refusal, resolver_calls
from keras_kd.litert.model_file import Graph, Operator, Tensor


def tensor(name="t", kind="INT8", shape=(1, 4), signature=None, constant=False, sparse=False):
    data = np.zeros(4, np.uint8) if constant else None
    return Tensor(name, kind, shape, signature or shape, (0.5,), (0,), data, sparse=sparse)


def graph(node="FULLY_CONNECTED", data=None, weights=None, result=None, custom=False):
    tensors = (
        data or tensor("x"),
        weights or tensor("w", constant=True),
        result or tensor("y"),
    )
    return Graph(tensors, (Operator(node, custom, (0, 1), (2,)),), (0,), (2,))


def test_nothing_is_said_against_an_int8_network():
    assert refusal([graph()]) is None
    assert refusal([graph(data=tensor("x", signature=(-1, 4)))]) is None  # runs at batch 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (graph("GELU"), "uses GELU, for which .* no kernel"),
        (graph("FlexErf", custom=True), "uses FlexErf, for which .* no kernel"),
        (graph("CONV_2D", custom=True), "uses CONV_2D, for which .* no kernel"),
        (graph("DENSIFY"), "sparse encoding.*sparse=False"),
        (graph(weights=tensor(constant=True, sparse=True)), "sparse encoding.*sparse=False"),
        (graph(weights=tensor(kind="FLOAT16", constant=True)), "holds float16 numbers"),
        (
            graph(data=tensor("x", "FLOAT32", (1, 1), (-1, -1))),
            r"input 'x' of shape \(any, any\).*fixed input shape",
        ),
        (
            graph(data=tensor("x", "FLOAT32"), result=tensor("y", "FLOAT32")),
            'FULLY_CONNECTED in float with integer weights .*quantization="int8"',
        ),
        (
            graph("EMBEDDING_LOOKUP", weights=tensor(kind="INT4", constant=True)),
            "fewer than 8 bits in EMBEDDING_LOOKUP",
        ),
        (
            graph(data=tensor("x", "INT16"), weights=tensor(kind="INT4", constant=True)),
            "fewer than 8 bits in FULLY_CONNECTED",
        ),
    ],
)
def test_what_a_microcontroller_cannot_run_is_named(bad, message):
    found = refusal([bad])
    assert found is not None
    with pytest.raises(ValueError, match=message):
        raise ValueError(found)
    assert refusal([graph(), bad]) == found or "input" in message  # bodies of loops are read too


def test_int4_weights_with_int8_activations_are_taken():
    assert refusal([graph(weights=tensor(kind="INT4", constant=True))]) is None


def test_each_operator_is_registered_once_in_order():
    graphs = [
        graph("SOFTMAX"),
        graph("CONV_2D"),
        graph("CONV_2D"),
        graph("TFLite_Detection_PostProcess", custom=True),
    ]
    assert resolver_calls(graphs) == ["AddConv2D", "AddDetectionPostprocess", "AddSoftmax"]


def test_every_operator_has_a_kernel_in_the_library():
    found = importlib.util.find_spec("tflite_micro")
    if found is None:
        pytest.skip("tflite-micro is not installed")
    folder = pathlib.Path(found.origin).parent
    (library,) = folder.rglob("_runtime*.so")
    content = library.read_bytes()
    # Length-prefixed, as C++ symbols are: no name can be the end of another one.
    kernels = {name: f"Register_{name}" for name in METHODS}
    kernels["PADV2"] = "Register_PADV2"
    missing = [n for n, k in kernels.items() if f"{len(k)}{k}Ev".encode() not in content]
    assert missing == []
    assert all(name.encode() in content for name in CUSTOM_METHODS if name != "ethos-u")
