"""Operators of a file taken from a file of another precision of the same model."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_kd.export.conversion import Conversion
from keras_kd.export.options import ExportOptions
from keras_kd.export.saved_model import source_of
from keras_kd.litert.mixing import computing_operators, partners, replace_operators
from keras_kd.litert.model_file import ModelFile
from keras_kd.litert.runtime import LiteRuntime

IMAGES = np.random.default_rng(0).normal(size=(40, 8, 8, 3)).astype("float32")


@pytest.fixture(scope="module")
def files():
    """One network in three precisions; its two branches are as alike as can be."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="conv")(image)
    left = layers.Conv2D(8, 1, name="left")(x)
    right = layers.Conv2D(8, 1, name="right")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(left * right)
    outputs = [layers.Dense(4, name="logits")(x), layers.Dense(4, "softmax", name="shares")(x)]
    model = keras.Model(image, outputs)
    found = {}
    for form in ("float32", "int8", "int16x8", "dynamic"):
        job = Conversion(source_of(model), ExportOptions(form, batch_size=1))
        job.use_data(IMAGES, None)
        found[form] = job.run().file.packed()
    return found


def mixed(files, tmp_path, form, other, chosen):
    file, donor = ModelFile(files[form]), ModelFile(files[other])
    pairs = partners(file, donor)
    replace_operators(file, donor, {i: pairs[i] for i in chosen})
    path = tmp_path / "mixed.tflite"
    path.write_bytes(file.packed())
    return path


def outputs(path, xnnpack=None):
    runtime = LiteRuntime(path, xnnpack=xnnpack)
    return np.concatenate(list(runtime.predict({"image": IMAGES}).values()), 1)


def error(path, files, tmp_path):
    exact = tmp_path / "float.tflite"
    exact.write_bytes(files["float32"])
    return float(np.abs(outputs(path) - outputs(exact)).max())


@pytest.mark.parametrize("form", ["int8", "int16x8", "dynamic"])
def test_with_all_operators_replaced_it_is_the_other_file(files, tmp_path, form):
    count = len(computing_operators(ModelFile(files[form])))
    path = mixed(files, tmp_path, form, "float32", range(count))
    assert error(path, files, tmp_path) == 0.0
    file = ModelFile(path.read_bytes())
    assert set(file.tensor_types()) == {"FLOAT32", "INT32"}  # no rounded weight is left behind
    assert file.operator_counts() == ModelFile(files["float32"]).operator_counts()


def test_with_none_replaced_it_stays_as_it_is(files, tmp_path):
    path = mixed(files, tmp_path, "int8", "float32", [])
    assert path.read_bytes() == ModelFile(files["int8"]).packed()


@pytest.mark.promise
@pytest.mark.parametrize("other", ["float32", "int16x8"])
def test_every_operator_alone(files, tmp_path, other):
    plain = mixed(files, tmp_path, "int8", other, [])
    largest = error(plain, files, tmp_path)
    names = [operator.name for operator in computing_operators(ModelFile(files["int8"]))]
    for i, name in enumerate(names):
        path = mixed(files, tmp_path, "int8", other, [i])
        assert error(path, files, tmp_path) < 1.5 * largest
        assert np.abs(outputs(path) - outputs(path, xnnpack=False)).max() < 0.02
        file = ModelFile(path.read_bytes())
        kind = {"float32": "FLOAT32", "int16x8": "INT16"}[other]
        replaced = [o for o in computing_operators(file) if o.output_types[0] == kind]
        assert [o.name for o in replaced] == [name]


def test_neighbors_are_not_rounded_between_them(files, tmp_path):
    names = [operator.name for operator in computing_operators(ModelFile(files["int8"]))]
    path = mixed(files, tmp_path, "int8", "float32", range(len(names) - 1))
    counts = ModelFile(path.read_bytes()).operator_counts()
    # Only what the last operator takes and gives is converted.
    assert counts["QUANTIZE"] == 1 and counts["DEQUANTIZE"] == 1
    assert error(path, files, tmp_path) < 0.01


@pytest.mark.parametrize("order", [("float32", "int16x8"), ("int16x8", "float32")])
def test_two_precisions_side_by_side_in_either_order(files, tmp_path, order):
    """What 16 bits hand to float is not rounded to 8 bits on the way."""
    file = ModelFile(files["int8"])
    count = len(computing_operators(file))
    chosen = {"int16x8": [0], "float32": range(1, count)}
    for form in order:
        donor = ModelFile(files[form])
        pairs = partners(file, donor)
        replace_operators(file, donor, {i: pairs[i] for i in chosen[form]})
    path = tmp_path / "both.tflite"
    path.write_bytes(file.packed())
    assert "INT16" in file.tensor_types()
    sixteen = mixed(files, tmp_path, "int16x8", "float32", range(1, count))
    assert error(path, files, tmp_path) <= error(sixteen, files, tmp_path) + 1e-4


def test_branches_are_not_mistaken(files):
    for form in ("int8", "int16x8", "dynamic"):
        file, donor = ModelFile(files[form]), ModelFile(files["float32"])
        names = [operator.outputs[0] for operator in computing_operators(donor)]
        for i, j in partners(file, donor).items():
            mine = computing_operators(file)[i].outputs[0]
            for layer in ("left", "right", "conv_1"):
                assert (f"/{layer}" in mine) == (f"/{layer}" in names[j])


def test_what_has_another_shape_is_no_partner(files):
    other = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(5, 3, name="conv")])
    donor = Conversion(source_of(other), ExportOptions("float32", batch_size=1)).run().file
    assert partners(ModelFile(files["int8"]), donor) == {}
