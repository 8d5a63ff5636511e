from __future__ import annotations

import keras
import numpy as np
from ai_edge_litert.tools import flatbuffer_utils
from keras import layers

import keras_kd as kd
from keras_kd.export.sparse_encoding import encodable, encode_sparse


def test_the_encoding_is_compressed_sparse_rows(tmp_path):
    generator = np.random.default_rng(0)
    i = keras.Input((64,), name="x")
    model = keras.Model(i, layers.Dense(300)(layers.Dense(128, activation="relu")(i)))
    for layer in model.layers[1:]:
        zero = generator.random(layer.kernel.shape) < 0.9
        layer.kernel.assign(np.where(zero, 0, layer.kernel.numpy()))
    content = kd.export_tflite(model, tmp_path / "a.tflite", verbose=False).read_bytes()
    groups = encodable(content)
    assert groups == [("FLOAT32", "FULLY_CONNECTED")]
    encoded = encode_sparse(content, groups)
    assert len(encoded) < 0.25 * len(content)
    before = flatbuffer_utils.read_model_from_bytearray(content)
    after = flatbuffer_utils.read_model_from_bytearray(encoded)
    checked = 0
    for old, new in zip(before.subgraphs[0].tensors, after.subgraphs[0].tensors, strict=False):
        if new.sparsity is None:
            continue
        rows, columns = new.sparsity.dimMetadata
        wanted = np.frombuffer(bytes(before.buffers[old.buffer].data), "<f4").reshape(new.shape)
        values = np.frombuffer(bytes(after.buffers[new.buffer].data), "<f4")
        decoded = np.zeros_like(wanted)
        for row in range(rows.denseSize):
            part = slice(*columns.arraySegments.values[row : row + 2])
            decoded[row, columns.arrayIndices.values[part]] = values[part]
        np.testing.assert_array_equal(decoded, wanted)
        assert columns.arrayIndices.values.dtype == np.uint8  # no position is above 255
        checked += 1
    assert checked == 2
    assert encode_sparse(content, [("FLOAT32", "CONV_2D")]) == content
    assert encodable(encoded) == []
