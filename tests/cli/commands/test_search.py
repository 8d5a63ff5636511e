import json
import shutil

import pytest

import keras_kd as kd
from keras_kd.cli.out_folder import _data_files
from keras_kd.planning.search.results import SearchResult

WORDS = [
    "search", "--teacher", "big.keras", "--data", "train.npz", "--scale", "255",
    "--validation-split", "0.3",
]  # fmt: skip


@pytest.mark.promise
def test_a_search(keras_kd_json, keras_kd, work, files_of_help):
    words = [
        "search", "--teacher", "big.keras", "--data", "train.npz", "--scale", "255",
        "--validation-split", "0.3", "--test-data", "test.npz", "--widths", "0.5", "--depths", "1",
        "--formats", "int8", "float16", "--trials", "2", "--epochs", "3", "--learning-rate",
        "0.02", "--batch-size", "16",
    ]  # fmt: skip
    refused = ["--max-bytes", "10", "--test-data", "train.npz", "--out", "runs/refused"]
    code, _, error = keras_kd(*words, *refused)
    assert code == 1 and "`max_bytes`" in error
    assert "'big.keras' was trained on 67 of the 96 examples" in error
    code, result = keras_kd_json(*words, "--max-drop", "100", "--quiet")
    assert code == 0, result
    assert result["best"]["bytes"] == min(found["bytes"] for found in result["tried"])
    assert result["front"][0]["test"]["samples"] == 30
    folder = work / result["front"][0]["folder"]
    notes = json.loads((folder / "student.keras.json").read_text())
    assert notes["class_names"] == ["cat", "dog", "fish"]
    written = work / "runs/search"
    assert [name for name in files_of_help("search") if not (written / name).is_file()] == []
    code, again = keras_kd_json(*words, "--max-drop", "100", "--quiet")
    assert again == result
    # What was found measures as any other file.
    code, measured = keras_kd_json(
        "measure", str(folder / "student.tflite"), "--data", "test.npz", "--quiet"
    )
    assert code == 0
    assert measured["files"][0]["accuracy"] == result["front"][0]["test"]["accuracy"]


def test_the_learning_rate_decays_in_every_training(keras_kd, monkeypatch):
    given = {}

    def search(*data, **options):
        given.update(options)
        raise ValueError("enough")

    monkeypatch.setattr(kd, "search", search)
    code, _, error = keras_kd(*WORDS, "--learning-rate", "0.02", "--quiet")
    assert code == 1 and "enough" in error
    rate = given["optimizer"](50)._learning_rate
    assert float(rate(0)) == pytest.approx(0.02)
    assert float(rate(50)) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("more", [[], ["--quiet"]])
def test_what_was_found_is_printed_once(keras_kd, monkeypatch, work, more):
    def search(*data, path, verbose, **options):
        page = path / "report.html"
        found = SearchResult(path, (), (), (), None, "The verdict.", None, page)
        if verbose:
            print(found)
        return found

    monkeypatch.setattr(kd, "search", search)
    for _ in range(2):  # once more where it is done
        code, out, _ = keras_kd(*WORDS, *more)
        assert code == 3
        assert out.count("The verdict.") == out.count("report.html") == 1
    code, out, _ = keras_kd("run", "runs/search/recipe.toml", "--out", "again")
    assert code == 3 and out.count("The verdict.") == 1


def test_nothing_to_choose_by_is_told_before_anything_is_printed(keras_kd):
    code, out, error = keras_kd(*WORDS, "--validation-split", "0")
    assert code == 2 and out == "" and "--validation-data" in error


def test_test_data_of_other_classes_is_refused(keras_kd, work):
    for name in ("cat", "fish"):
        shutil.copytree(work / "pictures" / name, work / "fewer" / name)
    code, _, error = keras_kd(
        "search", "--teacher", "big.keras", "--data", "pictures", "--scale", "255",
        "--validation-split", "0.3", "--test-data", "fewer", "--quiet",
    )  # fmt: skip
    assert code == 1 and "'fewer' has the classes ['cat', 'fish']" in error


def test_changed_test_data_is_another_run():
    assert _data_files({"data": "digits", "test_data": __file__}) == [__file__]
