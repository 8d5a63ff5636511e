from __future__ import annotations

import pathlib

import keras
from keras import layers

from keras_kd.export.conversion import order_ends
from keras_kd.export.tflite import export_tflite
from keras_kd.litert.model_file import ModelFile


def test_the_order_is_changed_only_for_known_names(tmp_path: pathlib.Path) -> None:
    i = keras.Input((2,), name="x")
    model = keras.Model(i, [layers.Dense(3, name="a")(i), layers.Dense(4, name="b")(i)])
    path = export_tflite(model, tmp_path / "a.tflite", verbose=False)
    file = ModelFile(path.read_bytes())
    a, b = file.graph_outputs(0)
    for outputs, expected in ((["a", "b"], [a, b]), (["a", "c"], [a, b]), (["b", "a"], [b, a])):
        order_ends(file, "serving_default", ["x"], outputs)
        assert file.graph_outputs(0) == expected
    again = ModelFile(file.packed())
    assert again.graph_outputs(0) == [b, a]
    assert [again.tensor(0, b).shape, again.tensor(0, a).shape] == [(1, 4), (1, 3)]
