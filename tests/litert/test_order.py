from __future__ import annotations

import pathlib

import keras
from keras import layers

from keras_kd.export.tflite import export_tflite
from keras_kd.litert.order import order_inputs_and_outputs


def test_the_order_is_changed_in_place_and_only_for_known_names(tmp_path: pathlib.Path) -> None:
    i = keras.Input((2,), name="x")
    model = keras.Model(i, [layers.Dense(3, name="a")(i), layers.Dense(4, name="b")(i)])
    path = export_tflite(model, tmp_path / "a.tflite", verbose=False)
    content = path.read_bytes()
    assert order_inputs_and_outputs(content, ["x"], ["a", "b"]) == content
    assert order_inputs_and_outputs(content, ["x"], ["a", "c"]) == content
    turned = order_inputs_and_outputs(content, ["x"], ["b", "a"])
    assert turned != content and len(turned) == len(content)
    assert order_inputs_and_outputs(turned, ["x"], ["a", "b"]) == content
