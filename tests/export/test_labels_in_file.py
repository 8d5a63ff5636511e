from __future__ import annotations

import io
import json
import pathlib
import struct
import zipfile

import flatbuffers
import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from keras import layers

import keras_kd as kd
from keras_kd.export.labels_in_file import embed, with_labels
from keras_kd.litert.model_file import ModelFile
from keras_kd.litert.runtime import LiteRuntime

REFERENCE = pathlib.Path(__file__).parents[2] / "exports" / "reference" / "seed0" / "int8.tflite"
NAMES = ["ant", "bée", "cat", "dog"]
MEAN = [0.5, 0.25, 0.0]
PREPROCESSING = {"scale": 1 / 255, "mean": MEAN, "std": 0.5, "color": "RGB", "crop": 0.9}


class Table:
    """A flatbuffer's table, read by the numbers of the metadata schema."""

    def __init__(self, data, position):
        self._table = flatbuffers.table.Table(data, position)

    def _at(self, slot):
        offset = self._table.Offset(4 + 2 * slot)
        return offset + self._table.Pos if offset else None

    def text(self, slot):
        return self._table.String(self._at(slot)).decode()

    def byte(self, slot):
        return self._table.Bytes[self._at(slot)]

    def table(self, slot):
        return Table(self._table.Bytes, self._table.Indirect(self._at(slot)))

    def tables(self, slot):
        where = self._at(slot) - self._table.Pos
        start, count = self._table.Vector(where), self._table.VectorLen(where)
        return [Table(self._table.Bytes, self._table.Indirect(start + 4 * i)) for i in range(count)]

    def floats(self, slot):
        where = self._at(slot) - self._table.Pos
        start, count = self._table.Vector(where), self._table.VectorLen(where)
        return list(struct.unpack_from(f"<{count}f", self._table.Bytes, start))


def metadata_of(content):
    file = schema.Model.GetRootAs(content, 0)
    entries = {
        file.Metadata(i).Name(): file.Metadata(i).Buffer() for i in range(file.MetadataLength())
    }
    data = file.Buffers(entries[b"TFLITE_METADATA"]).DataAsNumpy().tobytes()
    assert data[4:8] == b"M001"
    return Table(data, struct.unpack_from("<I", data)[0])


def test_labels_and_normalization_are_in_the_file(tmp_path):
    keras.utils.set_random_seed(0)
    i = keras.Input((3,), name="x")
    model = keras.Model(i, layers.Dense(4, name="y")(i))
    path = kd.export_tflite(
        model,
        tmp_path / "a.tflite",
        class_names=NAMES,
        preprocessing=PREPROCESSING,
        verbose=False,
    )
    content = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.namelist() == ["labels.txt"]
        assert archive.read("labels.txt").decode("utf-8").split("\n") == NAMES
    root = metadata_of(content)
    assert root.text(7) == "1.0.0"
    (graph,) = root.tables(3)
    (given,), (output,) = graph.tables(2), graph.tables(3)
    assert (given.text(0), output.text(0)) == ("x", "y")
    assert json.loads(given.text(1)) == PREPROCESSING
    assert (given.table(3).byte(0), given.table(3).table(1).byte(0)) == (2, 1)  # an image, RGB
    (unit,) = given.tables(4)
    assert unit.byte(0) == 1
    # (x / 255 - mean) / std, written for pixels
    np.testing.assert_allclose(unit.table(1).floats(0), [0.5 * 255, 0.25 * 255, 0.0])
    np.testing.assert_allclose(unit.table(1).floats(1), [0.5 * 255] * 3)
    (labels,) = output.tables(6)
    assert (labels.text(0), labels.byte(2)) == ("labels.txt", 2)
    # Both are passed over by LiteRT.
    x = np.random.default_rng(0).standard_normal((7, 3)).astype("float32")
    (given,) = LiteRuntime(path).predict({"x": x}).values()
    np.testing.assert_allclose(given, model(x), atol=1e-5)


def test_nothing_is_put_in_where_nothing_is_given():
    content = REFERENCE.read_bytes()
    file = ModelFile(content)
    before = file.packed()
    embed(file, ["x"], ["y"], None, None)
    assert file.packed() == before == with_labels(before, None)


class Chosen(layers.Layer):
    def call(self, scores):
        return tf.argmax(scores, axis=-1, output_type=tf.int32)


@pytest.mark.parametrize("shape", [(3,), (8, 8, 3)])
def test_names_of_what_an_output_of_integers_holds(tmp_path, shape):
    i = keras.Input(shape, name="x")
    model = keras.Model(i, Chosen()(layers.Dense(4)(i)))
    path = kd.export_tflite(
        model, tmp_path / "a.tflite", class_names=NAMES, batch_size=1, verbose=False
    )
    assert kd.read_metadata(path)["class_names"] == NAMES
    (graph,) = metadata_of(path.read_bytes()).tables(3)
    (labels,) = graph.tables(3)[0].tables(6)
    assert labels.byte(2) == 3  # of the values, not of an axis
    written = kd.export_c_array(path, tmp_path / "a.h", trial=False)
    assert "constexpr int kClassCount = 4;" in written.header.read_text()
