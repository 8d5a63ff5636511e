"""Packed files are small, compute what they did, and hold nothing twice."""

import collections
import struct

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from ai_edge_litert.tools import flatbuffer_utils
from keras import layers

import keras_kd as kd
from keras_kd.export.conversion import Conversion
from keras_kd.export.options import ExportOptions
from keras_kd.export.saved_model import source_of
from keras_kd.litert.metadata import metadata_path, open_file
from keras_kd.litert.model_file import IDENTIFIER, ModelFile
from keras_kd.litert.packing import pack

FORMS = ("float32", "dynamic", "int8", "int16x8", "int4")
IMAGES = np.random.default_rng(0).normal(size=(40, 12, 12, 3)).astype("float32")


def network():
    keras.utils.set_random_seed(0)
    i = keras.Input((12, 12, 3), name="image")
    x = i
    for name in ("first", "second", "third"):
        x = layers.Conv2D(16, 3, padding="same", activation="relu", name=name)(x)
        x = layers.DepthwiseConv2D(3, padding="same", name=f"{name}_depthwise")(x)
    x = layers.Reshape((16, 12 * 12))(x)
    x = layers.Dense(128, activation="relu", name="hidden")(layers.Reshape((12 * 12 * 16,))(x))
    return keras.Model(i, layers.Dense(10, name="logits")(x))


@pytest.fixture(scope="module")
def converted():
    """What the converter (of int4: the quantizer) gives of one network, by form."""
    model, found = network(), {}
    for layer in model.layers:  # for the sparse form
        for kernel in layer.weights[:1]:
            kernel.assign(np.where(np.abs(kernel) < np.quantile(np.abs(kernel), 0.8), 0, kernel))
    for form in FORMS:
        job = Conversion(source_of(model), ExportOptions(form, batch_size=1))
        job.use_data(IMAGES, None)
        found[form] = job.run().file.content
    return found


def outputs(content, resolver):
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    found = []
    for image in IMAGES[:4]:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    return np.concatenate(found)


def spans(content):
    """Start and bytes of every vector of scalars in a file, by walking all that it refers to."""
    found = {}

    def vector(table, slot, width):
        offset = table.Offset(4 + 2 * slot)
        if offset:
            start = table.Vector(offset)
            size = width * table.VectorLen(offset)
            found[start - 4] = (width, content[start - 4 : start + size])

    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    for i in range(model.BuffersLength()):
        vector(model.Buffers(i)._tab, 0, 1)
    for g in range(model.SubgraphsLength()):
        graph = model.Subgraphs(g)
        for i in range(graph.TensorsLength()):
            tensor = graph.Tensors(i)
            vector(tensor._tab, 0, 4)
            vector(tensor._tab, 3, 1)
            vector(tensor._tab, 7, 4)
            if tensor.Quantization() is not None:
                for slot, width in ((0, 4), (1, 4), (2, 4), (3, 8)):
                    vector(tensor.Quantization()._tab, slot, width)
        for i in range(graph.OperatorsLength()):
            vector(graph.Operators(i)._tab, 1, 4)
            vector(graph.Operators(i)._tab, 2, 4)
    return found


def shareable(content):
    """Return what a file holds twice: vectors, and buffers by their bytes."""
    vectors = collections.Counter(spans(content).values())
    file = ModelFile(content)
    data = [None if b.data is None else bytes(b.data) for b in file.model.buffers]
    buffers = collections.Counter(data)
    return [key for count in (vectors, buffers) for key, times in count.items() if times > 1]


@pytest.mark.parametrize("form", [*FORMS, "sparse"])
def test_nothing_is_stored_twice_and_the_outputs_are_the_same(converted, form):
    before = converted["float32" if form == "sparse" else form]
    file = ModelFile(before)
    if form == "sparse":
        from keras_kd.export.sparse import encodable, encode_sparse

        encode_sparse(file, encodable(file))
        before = bytes(flatbuffer_utils.convert_object_to_bytearray(file.model))
        file = ModelFile(before)
    assert shareable(before)
    named, after = file.packed(), file.packed(keep_names=False)
    assert len(after) < len(named) < len(before)
    assert not shareable(named) and not shareable(after)
    assert ModelFile(after).packed(keep_names=False) == after
    assert ModelFile(named).names() == file.names() == ModelFile(before).names()
    for resolver in (OpResolverType.AUTO, OpResolverType.BUILTIN_REF):
        expected = outputs(before, resolver)
        np.testing.assert_array_equal(outputs(named, resolver), expected)
        np.testing.assert_array_equal(outputs(after, resolver), expected)


def test_constants_keep_their_alignment(converted):
    from ai_edge_litert import schema_py_generated as schema

    content = ModelFile(converted["int8"]).packed()
    model = schema.Model.GetRootAs(content, 0)
    tables = [model.Buffers(i)._tab for i in range(1, model.BuffersLength())]
    # The schema asks for 16 bytes where buffers stand.
    assert [table.Vector(table.Offset(4)) % 16 for table in tables] == [0] * len(tables)
    assert len(tables) > 5
    for start, (width, _) in spans(content).items():
        assert (start + 4) % max(width, 4) == 0


def test_microcontrollers_compute_the_same(converted):
    runtime = pytest.importorskip("tflite_micro").runtime
    before = converted["int8"]
    found = []
    for content in (before, ModelFile(before).packed(keep_names=False)):
        interpreter = runtime.Interpreter.from_bytes(content)
        for image in IMAGES[:4]:
            interpreter.set_input(image[None], 0)
            interpreter.invoke()
            found.append(interpreter.get_output(0))
    np.testing.assert_array_equal(found[4:], found[:4])


def test_buffers_behind_the_flatbuffer_as_in_files_above_2_gb(converted):
    before = converted["float32"]
    content = pack(ModelFile(before).model, IDENTIFIER, limit=0)
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    assert all(model.Buffers(i).DataIsNone() for i in range(model.BuffersLength()))
    again = ModelFile(content)
    assert again.packed() == ModelFile(before).packed()
    expected = outputs(before, OpResolverType.AUTO)
    np.testing.assert_array_equal(outputs(content, OpResolverType.AUTO), expected)


def test_more_tables_than_bytes_are_refused(converted):
    content = bytearray(converted["float32"])
    from ai_edge_litert import schema_py_generated as schema

    graph = schema.Model.GetRootAs(content, 0).Subgraphs(0)
    table = graph._tab
    start = table.Vector(table.Offset(4)) - 4
    struct.pack_into("<I", content, start, len(content))
    with pytest.raises(ValueError, match="not a complete TFLite file"):
        ModelFile(bytes(content))


@pytest.mark.promise
def test_names_stand_in_the_json_or_in_the_file(tmp_path):
    model = network()
    slim = kd.export_tflite(model, tmp_path / "slim.tflite", verbose=False)
    named = kd.export_tflite(model, tmp_path / "named.tflite", keep_names=True, verbose=False)
    assert slim.stat().st_size < named.stat().st_size
    inner = ModelFile(slim.read_bytes())
    assert not inner.has_names and ModelFile(named.read_bytes()).has_names
    ends = [inner.tensor(0, i).name for i in (*inner.graph_inputs(0), *inner.graph_outputs(0))]
    assert all(ends)
    assert open_file(slim).names() == ModelFile(named.read_bytes()).names()
    print(compared := kd.compare(model, slim, IMAGES, per_layer=True, verbose=False))
    assert {row.layer for row in compared.layers} >= {"first", "second", "hidden"}
    metadata_path(slim).unlink()
    assert kd.compare(model, slim, IMAGES, verbose=False).agreement == 1
    with pytest.raises(ValueError, match="keep_names=True"):
        kd.compare(model, slim, IMAGES, per_layer=True, verbose=False)
    metadata_path(named).unlink()
    assert kd.compare(model, named, IMAGES, per_layer=True, verbose=False).layers
