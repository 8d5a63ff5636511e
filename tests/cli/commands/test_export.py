import contextlib
import json
import pathlib
import tomllib
import types

import numpy as np
import pytest

from keras_kd.cli.commands.export import _check_data, _hold_to
from keras_kd.export.fidelity import ExportedFile, Fidelity, OutputFidelity


@pytest.fixture
def student(distilled):
    return str(distilled / "student.keras")


@pytest.mark.promise
def test_several_forms(keras_kd_json, student, work):
    code, result = keras_kd_json(
        "export", student, "--quantization", "float32", "int8", "--data", "train.npz"
    )
    assert code == 0
    sizes = {file["form"]: file["bytes"] for file in result["files"]}
    assert sizes["float32"] == (work / "runs/export/student_float32.tflite").stat().st_size
    assert set(sizes) == {"float32", "int8"}
    notes = json.loads((work / "runs/export/student_int8.tflite.json").read_text())
    assert notes["class_names"] == ["cat", "dog", "fish"]
    assert notes["preprocessing"]["scale"] == 255.0
    assert notes["quantization"] == "int8"
    recipe = tomllib.loads((work / "runs/export/recipe.toml").read_text())
    assert recipe["export"]["quantization"] == ["float32", "int8"]
    code, again = keras_kd_json(
        "export", student, "--quantization", "float32", "int8", "--data", "train.npz"
    )
    assert again == result


def test_the_file_is_calibrated_with_prepared_images(keras_kd_json, student, materials):
    code, result = keras_kd_json("export", student, "--data", "train.npz")
    assert code == 0
    from keras_kd.litert.runtime import LiteRuntime

    x = np.load(materials / "test.npz")
    runtime = LiteRuntime(result["files"][0]["file"])
    name = runtime.inputs[0].name
    outputs = [
        runtime.predict({name: (image[None] / 255.0).astype("float32")})[runtime.output_names[0]]
        for image in x["x"]
    ]
    assert (np.concatenate(outputs).argmax(-1) == x["y"]).mean() > 0.5


@pytest.mark.promise
def test_within_a_drop_of_accuracy(keras_kd_json, student, work):
    code, result = keras_kd_json(
        "export", student, "--max-drop", "40", "--data", "train.npz", "--quantization", "int8"
    )
    assert code == 0
    (file,) = result["files"]
    assert file["within"]["within"] and file["within"]["samples"] >= 32
    assert file["within"]["limit"] == {"max_drop": 40.0}
    assert pathlib.Path(file["file"] + ".plan.json").exists()


@pytest.mark.parametrize("reaction", ["warn", "error", "ignore"])
def test_a_file_within_a_drop_that_disagrees(tmp_path, reaction):
    path = ExportedFile(tmp_path / "a.tflite")
    path.fidelity = Fidelity(25, True, (OutputFidelity("output_0", "builtin", 0.9, 20.0, 0.1),))
    within = types.SimpleNamespace(path=path, within=True, drop=0.0)
    for file in (path, tmp_path / "a.tflite.json"):
        file.write_text("{}")
    settings = {"max_drop": 40.0, "min_agreement": 0.9, "on_disagreement": reaction}
    _hold_to(settings, within, "int8")
    settings["min_agreement"] = 0.95
    outcome = contextlib.nullcontext()
    if reaction == "warn":
        outcome = pytest.warns(UserWarning, match="90.0% of its answers agree")
    if reaction == "error":
        outcome = pytest.raises(ValueError, match=r"90.0% of its answers agree.* was not written")
    with outcome:
        _hold_to(settings, within, "int8")
    assert len(list(tmp_path.iterdir())) == (0 if reaction == "error" else 2)


@pytest.mark.slow
def test_c_array_and_class_names(keras_kd_json, work):
    code, result = keras_kd_json(
        "export", "small.keras", "--quantization", "float32", "--class-names", "a, b,c",
        "--c-array", "--out", "out",
    )  # fmt: skip
    assert code == 0
    assert result["class_names"] == ["a", "b", "c"]
    made = result["files"][0]["c_array"]
    assert "namespace" in pathlib.Path(made["header"]).read_text()
    assert pathlib.Path(made["source"]).suffix == ".cc"
    assert made["arena_bytes"] > 0


@pytest.mark.parametrize(
    ("exit_code", "words", "message"),
    [
        (1, ["small.keras"], "int8 needs some training data"),
        (2, ["small.keras", "--quantization", "int3"], "'--quantization': `FORM` must be one of"),
        (1, ["small.keras", "--quantization", "float32", "--class-names", "a,b"], "gives 2 names"),
        (1, ["small.keras", "--data", "train.npz"], "Add --scale 255"),
        (
            2,
            ["small.keras", "--quantization", "float16", "--c-array"],
            "does not compute with float16",
        ),
        (2, ["small.keras", "--quantization", "int4", "--max-drop", "1"], "--max-drop needs data"),
        (
            2,
            ["small.keras", "--max-drop", "1", "--allow-flex", "--data", "train.npz"],
            "Received: --max-drop 1 --allow-flex",
        ),
        (2, ["small.keras", "--on-disagreement", "stop"], "'stop' is not one of 'warn'"),
        (
            2,
            ["small.keras", "--quantization", "int16x8", "--calibration", "mse"],
            "Received: quantization='int16x8'",
        ),
        (
            1,
            [
                *["small.keras", "--max-drop", "1", "--scale", "255"],
                *["--class-names", "cat,dog,fish", "--data", "moved.npz"],
            ],
            "was trained on the classes cat, dog, fish, but 'moved.npz' has fish, cat, dog",
        ),
        (1, ["absent.keras"], "There is no file 'absent.keras'"),
        (2, [], "needs MODEL"),
    ],
)
def test_what_is_refused(keras_kd, work, exit_code, words, message):
    x, y = (np.load(work / "test.npz")[name] for name in ("x", "y"))
    np.savez("moved.npz", x=x, y=(y + 1) % 3, class_names=["fish", "cat", "dog"])
    code, _, err = keras_kd("export", *words)
    assert code == exit_code
    assert message in err
    assert not (work / "runs/export/result.json").exists()


def test_a_model_trained_for_int8_needs_data_for_int16x8_alone():
    loaded = types.SimpleNamespace(model=types.SimpleNamespace(quantization={"activation_bits": 8}))
    settings = {"model": "student.keras", "quantization": ["int8", "float16"], "data": None}
    settings["max_drop"] = None
    _check_data(settings, loaded)
    settings["quantization"] = ["int8", "int16x8"]
    with pytest.raises(ValueError, match="--data"):
        _check_data(settings, loaded)
    _check_data({**settings, "data": "pictures"}, loaded)


def test_names_in_another_order_are_refused(keras_kd, distilled):
    student = str(distilled / "student.keras")
    words = ["--class-names", "fish,dog,cat", "--quantization", "float32", "--out", "e"]
    code, _, error = keras_kd("export", student, *words)
    assert code == 1 and "in another order. Received: fish, dog, cat" in error
