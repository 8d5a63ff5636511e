import functools
import json

import keras
import numpy as np
import pytest

from keras_kd.cli.commands import distill as distill_module
from keras_kd.cli.recipe import read_recipe

BASE = ["distill", "--teacher", "big.keras", "--student", "small.keras", "--data", "train.npz"]
FAST = ["--scale", "255", "--epochs", "1", "--quiet"]


def weights(path):
    return keras.models.load_model(path, compile=False).get_weights()


def test_what_is_written(distilled, materials, files_of_help):
    assert [name for name in files_of_help("distill") if not (distilled / name).is_file()] == []
    content = json.loads((distilled / "result.json").read_text())
    assert content["command"] == "distill"
    result = content["result"]
    assert len(result["history"]["val_accuracy"]) == 3
    assert result["metrics"]["val_accuracy"] >= 0.6
    assert result["metrics"]["distillation_loss"] < result["history"]["distillation_loss"][0]
    notes = json.loads((distilled / "student.keras.json").read_text())
    assert notes["class_names"] == ["cat", "dog", "fish"]
    assert notes["preprocessing"]["scale"] == 255.0
    x = np.load(materials / "test.npz")
    student = keras.models.load_model(distilled / "student.keras", compile=False)
    answers = np.asarray(student(x["x"] / 255.0)).argmax(-1)
    assert (answers == x["y"]).mean() > 0.5
    assert not list(distilled.glob("*backup*"))


@pytest.mark.promise
def test_the_recipe_repeats_the_run(distilled, tmp_path, keras_kd_json):
    code, result = keras_kd_json(
        "run", str(distilled / "recipe.toml"), "--out", str(tmp_path / "again")
    )
    assert code == 0
    assert result["model"] == (tmp_path / "again/student.keras").as_posix()
    for ours, theirs in zip(
        weights(tmp_path / "again/student.keras"), weights(distilled / "student.keras"), strict=True
    ):
        assert (ours == theirs).all()
    kept = json.loads((distilled / "result.json").read_text())["result"]
    assert result["history"] == kept["history"]


@pytest.mark.promise
def test_a_killed_run_goes_on(work, monkeypatch, keras_kd):
    words = [*BASE, "--scale", "255", "--epochs", "3", "--out", "run"]
    words += ["--learning-rate", "0.02", "--batch-size", "16"]
    epochs = []
    fit = keras.Model.fit

    class Killed(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            epochs.append(epoch)
            if len(epochs) == 2:
                raise KeyboardInterrupt

    @functools.wraps(fit)  # its signature too
    def killed_fit(self, *args, callbacks, **kwargs):
        return fit(self, *args, callbacks=[*callbacks, Killed()], **kwargs)

    monkeypatch.setattr(keras.Model, "fit", killed_fit)
    code, _, err = keras_kd(*words)
    assert code == 130, err
    assert "rerun the command" in err
    assert not (work / "run/student.keras").exists()
    code, out, _ = keras_kd(*words)
    assert code == 0
    assert epochs == [0, 1, 1, 2]
    assert "validation accuracy" in out
    result = json.loads((work / "run/result.json").read_text())["result"]
    assert len(result["history"]["loss"]) == 3
    code, out, _ = keras_kd(*words)
    assert code == 0
    assert "'run' is done already" in out
    assert epochs == [0, 1, 1, 2]
    code, out, err = keras_kd(*words, "--temperature", "2")
    assert code == 1
    assert "`temperature` (4.0 there, 2.0 here)" in err
    assert "--out NEW_FOLDER" in err


def test_from_a_folder_of_images_with_a_shrunk_and_cached_teacher(work, keras_kd_json):
    code, result = keras_kd_json(
        "distill", "--teacher", "big.keras", "--student", "shrink:0.5", "--data", "pictures",
        "--loss", "dkd", "pkt:0.1", "--hint", "conv:conv:fit_net:0.5", "--cache-teacher", *FAST,
    )  # fmt: skip
    assert code == 0
    assert result["model"] == "runs/distill/student.keras"
    assert result["parameters"] < result["teacher_parameters"]
    assert {"dkd", "pkt", "fit_net_conv"} <= set(result["metrics"])
    assert (work / "runs/distill/teacher_cache/manifest.json").is_file()
    student = keras.models.load_model("runs/distill/student.keras", compile=False)
    assert student.get_layer("conv").filters == 4
    assert student.get_layer("answer").activation is keras.activations.softmax
    tables = read_recipe("runs/distill/recipe.toml", [distill_module.COMMAND])
    assert tables["teaching"]["hint"] == ["conv:conv:fit_net:0.5"]


@pytest.mark.parametrize(
    ("exit_code", "words", "message"),
    [
        (1, [], "Add --scale 255"),
        (1, ["--teacher", "absent.keras"], "There is no file 'absent.keras'"),
        (2, ["--student", "shrink:half"], "'--student': shrink:RATIO"),
        (1, ["--student", "half"], "--student half. Give a saved model (.keras), or shrink:RATIO"),
        (1, ["--data", "digits", "--scale", "255"], "'digits' has 10 classes (0, 1, 2, 3, 4, ...)"),
        (2, ["--loss", "kl", "--scale", "255"], "There is no loss 'kl'. Did you mean one of:"),
        (1, ["--hint", "conv:convv", "--scale", "255"], "convv"),
        (2, ["--optimizer", "addam", "--scale", "255"], "no Keras optimizer 'addam'"),
        (2, ["--validation-split", "1", "--scale", "255"], "`validation_split` must be"),
        (1, ["--validation-data", "absent", "--scale", "255"], "no folder, .npz file or TFDS"),
        (1, ["--out", "pictures"], "'pictures' is not empty ('cat') and holds no run"),
    ],
)
def test_what_is_refused_leaves_no_folder_behind(keras_kd, work, exit_code, words, message):
    code, out, err = keras_kd(*BASE, *words, "--quiet")
    assert code == exit_code
    assert err.startswith("keras-kd: " if code == 1 else "Usage: ")
    assert message in err.splitlines()[-1]
    assert code == 2 or len(err.strip().splitlines()) == 1
    assert out == ""
    assert not (work / "runs/distill/result.json").exists()


@pytest.mark.parametrize("student", ["half", "shrnk:0.5", "shrink:1.5"])
def test_a_student_that_does_not_exist_is_told_before_anything_is_printed(keras_kd, student):
    code, out, err = keras_kd(*BASE, "--scale", "255", "--student", student)
    assert code and out == ""
    assert "--student" in err and "shrink:RATIO" in err


@pytest.mark.parametrize("command", [["distill"], ["compress", "--prune", "0.5"]])
def test_a_teacher_of_classes_in_another_order_is_refused(keras_kd, work, command):
    (work / "big.keras.json").write_text('{"class_names": ["dog", "cat", "fish"]}')
    code, _, err = keras_kd(*command, *BASE[1:], "--scale", "255", "--quiet", "--out", "run")
    assert code == 1
    assert "'big.keras' was trained on the classes dog, cat, fish, but 'train.npz' has cat" in err
    assert not (work / "run/result.json").exists()


def test_a_damaged_image_is_named(keras_kd, work):
    import shutil

    shutil.copytree(work / "pictures", work / "damaged")
    path = sorted((work / "damaged/dog").iterdir())[0]
    path.write_bytes(path.read_bytes()[:40])
    code, _, err = keras_kd(*BASE[:-1], "damaged", *FAST)
    assert code == 1
    assert f"The image 'damaged/dog/{path.name}' is damaged" in err
    assert len(err.strip().splitlines()) == 1
    assert not (work / "runs/distill/result.json").exists()  # the folder stays free


def test_a_training_that_diverged_saves_nothing(keras_kd, work):
    words = [*BASE, *FAST, "--learning-rate", "1e30", "--out", "diverged"]
    code, _, error = keras_kd(*words)
    assert code == 1 and "weights that are NaN or infinite" in error
    assert not list((work / "diverged").glob("*.keras")) + list(
        (work / "diverged").glob("*backup*")
    )
