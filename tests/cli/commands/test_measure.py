import json

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd.report.numbers import ratio_text


@pytest.fixture(scope="session")
def exported(distilled, tmp_path_factory):
    """A float32 file of the distilled student, with its notes."""
    from keras_kd.cli import main

    out = tmp_path_factory.mktemp("exported") / "run"
    words = ["export", str(distilled / "student.keras"), "--quantization", "float32", "--quiet"]
    assert main([*words, "--out", str(out)]) == 0
    return str(out / "student_float32.tflite")


def accuracy(path, x, y):
    model = keras.models.load_model(path, compile=False)
    return (np.asarray(model(x / 255.0)).argmax(-1) == y).mean()


def test_files_beside_model_and_teacher(keras_kd_json, exported, distilled, work):
    student = str(distilled / "student.keras")
    code, result = keras_kd_json(
        "measure", exported, "--data", "test.npz", "--scale", "255", "--model", student,
        "--teacher", "big.keras", "--min-agreement", "0.99", "--max-bytes", "100000",
        "--max-drop", "0", "--out", "measured",
    )  # fmt: skip
    assert code == 0
    file, model, teacher = result["files"]
    data = np.load(work / "test.npz")
    assert file["agreement"] == 1.0
    assert file["accuracy"] == model["accuracy"] == accuracy(student, data["x"], data["y"])
    assert teacher["accuracy"] == accuracy("big.keras", data["x"], data["y"])
    assert teacher["parameters"] == keras.models.load_model("big.keras").count_params()
    assert result["not_kept"] == {}
    own = work / teacher["tflite"]["path"]
    assert own.name == "big_float32.tflite"
    assert own.stat().st_size == teacher["tflite"]["bytes"] > file["bytes"]
    assert teacher["tflite"]["agreement"] == 1.0
    kept = json.loads((work / "measured/result.json").read_text())["result"]
    assert kept["files"][0]["bytes"] == file["bytes"]
    assert "max_bytes = 100000" in (work / "measured/recipe.toml").read_text()


@pytest.mark.parametrize("units", [3, 1])
@pytest.mark.parametrize("activation", [None, "probabilities"])
def test_a_sequential_model_is_measured(keras_kd_json, tmp_path, units, activation):
    if activation is not None:
        activation = "sigmoid" if units == 1 else "softmax"
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(units, activation=activation)])
    model.save(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    logits = x @ model.weights[0].numpy()
    y = (logits[:, 0] > 0).astype(int) if units == 1 else logits.argmax(-1)
    y[:10] = 1 - np.minimum(y[:10], 1)
    right = ((logits[:, 0] > 0) == y) if units == 1 else (logits.argmax(-1) == y)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    words = ["measure", str(tmp_path / "model.keras"), "--data", str(tmp_path / "data.npz")]
    code, result = keras_kd_json(*words)
    assert code == 0
    assert result["files"][0]["accuracy"] == right.mean() < 1
    assert result["files"][0]["samples"] == 40


def test_sizes_are_compared_with_the_teachers_own_file(keras_kd, exported):
    words = ["measure", exported, "--data", "test.npz", "--teacher", "big.keras"]
    _, out, _ = keras_kd(*words)
    header = next(line for line in out.splitlines() if line.endswith("of the teacher"))
    file, teacher = out.split(header)[1].splitlines()[-2:]
    sizes = [int(line.split()[3].replace(",", "")) for line in (file, teacher)]
    assert teacher.split()[-1] == "1.00×"
    assert file.split()[-1] == ratio_text(sizes[0] / sizes[1])


def test_bytes_of_keras_files_are_marked(keras_kd, exported):
    _, out, _ = keras_kd("measure", exported, "big.keras", "--data", "test.npz")
    rows = [line for line in out.splitlines() if " *" in line]
    assert len(rows) == 1 and rows[0].startswith("big.keras")
    assert out.rstrip().endswith("not comparable with those of .tflite files")
    assert " *" not in keras_kd("measure", exported, "--data", "test.npz")[1]


def test_without_data_all_but_the_answers_is_measured(keras_kd, keras_kd_json, exported):
    code, result = keras_kd_json("measure", exported, "--max-bytes", "100")
    (file,) = result["files"]
    assert code == 3 and "max_bytes=100" in result["not_kept"][exported][0]
    assert file["accuracy"] is file["agreement"] is None
    assert file["latency_ms"] > 0 and file["operators"]
    code, _, error = keras_kd("measure", exported, "--min-accuracy", "0.5")
    assert code == 2 and "--min-accuracy" in error and "--data" in error


def test_a_budget_that_is_not_kept_ends_with_3(keras_kd, exported, work):
    words = ["measure", exported, "--data", "test.npz", "--max-bytes", "100", "--quiet"]
    code, out, _ = keras_kd(*words, "--max-latency-ms", "1e-7", "--out", "measured")
    assert code == 3
    assert "over max_bytes=100" in out
    assert "over max_latency_ms=1e-07" in out
    code, out, _ = keras_kd(*words, "--max-latency-ms", "1e-7", "--out", "measured")
    assert code == 3  # a run that is done says the same again
    code, out, _ = keras_kd("measure", exported, "--data", "test.npz", "--min-accuracy", "0.1")
    assert code == 0
    assert "Every limit is kept." in out
    assert "30 examples" in out


def test_what_a_device_makes_of_the_file(keras_kd_json, keras_kd, exported):
    pytest.importorskip("ethosu.vela")
    words = ["measure", exported, "--data", "test.npz", "--device", "ethos-u55-128"]
    code, result = keras_kd_json(*words, "--min-npu-share", "0.5", "--max-sram", "100000")
    assert code == 3  # a float32 file runs on the processor
    cost = result["files"][0]["device_cost"]
    assert cost["npu_operators"] == 0 and sum(cost["cpu_operators"].values()) == cost["operators"]
    assert [s for s in result["not_kept"][exported] if "min_npu_share=0.5" in s]
    code, out, _ = keras_kd(*words)
    assert code == 0 and f"0 of {cost['operators']}" in out


def test_parts_are_those_of_training(keras_kd_json, keras_kd, exported, materials, distilled):
    train = str(materials / "train.npz")
    code, result = keras_kd_json("measure", exported, "--data", train, "--part", "validation")
    assert code == 0
    assert result["files"][0]["samples"] == 10
    kept = json.loads((distilled / "result.json").read_text())["result"]
    assert result["files"][0]["accuracy"] == pytest.approx(kept["metrics"]["val_accuracy"])
    code, result = keras_kd_json("measure", exported, "--data", train, "--part", "train")
    assert result["files"][0]["samples"] == 86
    _, _, error = keras_kd("measure", exported, "--data", train, "--quiet")
    assert "was trained on 86 of the 96 examples" in error
    assert "--part validation --validation-split 0.1 --seed 0` measures on what was held" in error


def test_examples_that_were_trained_on_are_told(keras_kd, exported, materials, distilled):
    words = ["--data", str(materials / "train.npz"), "--part", "validation"]
    for path in (exported, str(distilled / "student.keras")):
        for same in (["--seed", "0"], ["--validation-split", "0.05"]):  # a part of the same
            assert "was trained on" not in keras_kd("measure", path, *words, *same)[2]
        for other in (["--seed", "1"], ["--validation-split", "0.3"]):
            _, _, error = keras_kd("measure", path, *words, *other)
            assert (
                f"'{path}' was trained on" in error and "--validation-split 0.1 --seed 0" in error
            )


@pytest.mark.parametrize(
    ("exit_code", "words", "message"),
    [
        (1, ["absent.tflite"], "absent.tflite"),
        (1, ["small.keras"], "Add --scale 255"),
        (2, ["a.tflite", "--max-drop", "1"], "give --model or --teacher"),
        (2, ["a.tflite", "--min-agreement", "1"], "give --model"),
        (2, ["a.tflite", "--max-sram", "1"], "give --device"),
        (
            2,
            ["small.keras", "--teacher", "big.keras", "--teacher-offset", "-1"],
            "Add --teacher-scale",
        ),
        (2, ["a.tflite", "--model", "a.keras", "--min-accuracy", "90"], "write 0.9 for 90 %"),
        (2, ["small.keras", "--max-bytes", "1"], "--max-bytes needs a .tflite file"),
        (2, ["small.keras", "--max-latency-ms", "1"], "--max-latency-ms needs a .tflite file"),
        (1, ["train.npz"], "train.npz"),
        (2, [], "needs FILE"),
    ],
)
def test_what_is_refused(keras_kd, exit_code, words, message):
    code, _, err = keras_kd("measure", *words, "--data", "test.npz")
    assert code == exit_code
    assert message in err.splitlines()[-1]


def test_other_classes_are_refused(keras_kd, exported):
    code, _, err = keras_kd("measure", exported, "--data", "digits")
    assert code == 1
    assert "was trained on the classes cat, dog, fish, but 'digits' has 0, 1" in err
    assert len(err.strip().splitlines()) == 1


def test_models_are_measured_as_files_are(keras_kd, keras_kd_json, work):
    words = ["measure", "small.keras", "--scale", "255", "--data"]
    x, y = (np.load(work / "test.npz")[name] for name in ("x", "y"))
    np.savez("from_one.npz", x=x, y=y + 1)
    code, _, err = keras_kd(*words, "from_one.npz")
    assert code == 1 and "label 3" in err
    model = keras.models.load_model("small.keras")
    model.layers[-1].bias.assign([np.nan, 0.0, 0.0])
    (work / "small.keras").unlink()
    model.save("small.keras")
    code, result = keras_kd_json(*words, "test.npz")
    assert code == 0 and result["files"][0]["accuracy"] == 0.0  # no answer, and not class 0


def test_a_quantized_student_is_measured_as_its_file(keras_kd_json, work):
    model = keras.models.load_model("small.keras")
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = (np.load(work / "test.npz")[name] for name in ("x", "y"))
    x = x.astype("float32")
    # Calibrated on dark images, so that the rounded values of bright ones are cut off.
    stages = [kd.QuantizeAware(epochs=0)]
    compressed = kd.compress(model, (x / 2550.0, y), stages=stages, verbose=0)
    outputs = [compressed.predict(x / 255.0), np.asarray(compressed.model(x / 255.0))]
    rounded, plain = ((output.argmax(-1) == y).mean() for output in outputs)
    assert rounded != plain
    compressed.save("quantized.keras")
    _, result = keras_kd_json("measure", "quantized.keras", "--data", "test.npz", "--scale", "255")
    assert result["files"][0]["accuracy"] == rounded


def test_validation_data_needs_its_part(keras_kd, exported, materials):
    words = ["measure", exported, "--data", str(materials / "train.npz")]
    code, _, error = keras_kd(*words, "--validation-data", "test.npz")
    assert code == 2 and "--validation-data is read with --part validation" in error


def test_limits_are_those_of_files(keras_kd, exported, distilled):
    student = str(distilled / "student.keras")
    words = ["measure", exported, student, "--data", "test.npz", "--max-bytes", "1000000"]
    code, out, _ = keras_kd(*words)
    assert code == 0 and "Every limit is kept by the .tflite files." in out
