import sys

import keras
import numpy as np
import pytest

from keras_kd.cli.model_files import custom_objects, load_model, read_notes, write_notes


def test_model_with_notes(work):
    keras.models.load_model("small.keras").save("a.keras")
    write_notes("a.keras", {"class_names": ["a", "b", "c"]})
    loaded = load_model("a.keras")
    assert loaded.notes == {"class_names": ["a", "b", "c"]}
    assert loaded.input_shape == (8, 8, 1)
    assert loaded.units == loaded.classes == 3
    assert read_notes("big.keras") == {}


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("absent.keras", None, FileNotFoundError, "no model file 'absent.keras'"),
        ("a.txt", b"a", ValueError, "not a .keras or .h5 file"),
        ("a.keras", b"a", ValueError, "'a.keras' cannot be loaded"),
        ("a.h5", b"a", ValueError, "'a.h5' cannot be loaded"),
    ],
)
def test_what_is_no_model(work, name, content, error, message):
    if content is not None:
        (work / name).write_bytes(content)
    with pytest.raises(error, match=message):
        load_model(name)


def test_damaged_notes_are_named(work):
    (work / "a.keras.json").write_text("{")
    with pytest.raises(ValueError, match=r"a.keras.json', which belongs to 'a.keras', is damaged"):
        read_notes("a.keras")


def test_several_inputs_are_refused(work):
    a, b = keras.Input((2,)), keras.Input((2,))
    keras.Model([a, b], keras.layers.Dense(1)(a + b)).save("two.keras")
    with pytest.raises(ValueError, match=r"'two.keras' has 2 inputs"):
        assert load_model("two.keras").input_shape
    assert load_model("two.keras").classes == 2


def test_open_sizes_and_maps_are_refused(work):
    inputs = keras.Input((None, None, 1))
    keras.Model(inputs, keras.layers.Conv2D(2, 1)(inputs)).save("open.keras")
    with pytest.raises(ValueError, match="leaves the size of its input open"):
        assert load_model("open.keras").input_shape
    inputs = keras.Input((4, 4, 1))
    keras.Model(inputs, keras.layers.Conv2D(2, 1)(inputs)).save("map.keras")
    with pytest.raises(ValueError, match=r"outputs of shape \(4, 4, 2\)"):
        assert load_model("map.keras").units


def test_custom_objects(work, monkeypatch):
    (work / "my_layers_of_a_test.py").write_text(
        "import keras\n"
        "class Gate(keras.layers.Layer):\n"
        "    def call(self, x):\n"
        "        return 2.0 * x\n"
    )
    monkeypatch.syspath_prepend(str(work))
    name = "my_layers_of_a_test:Gate"
    gate = custom_objects([name])["Gate"]
    inputs = keras.Input((2,))
    keras.Model(inputs, gate()(inputs)).save("gate.keras")
    with pytest.raises(ValueError, match=r"--custom-objects \S+:Gate"):
        load_model("gate.keras")
    model = load_model("gate.keras", [name]).model
    assert (np.asarray(model(np.ones((1, 2), "float32"))) == 2.0).all()
    keras.saving.get_custom_objects().pop("Gate")
    sys.modules.pop("my_layers_of_a_test")


@pytest.mark.parametrize("text", ["Gate", "absent_module:Gate", "json:absent"])
def test_custom_objects_that_are_not_there(text):
    with pytest.raises(ValueError, match=f"MODULE:NAME.*'{text}'|--custom-objects {text}"):
        custom_objects([text])
