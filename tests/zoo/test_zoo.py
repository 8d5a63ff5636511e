"""Students of the zoo: files give the stated numbers; a changed or absent one is an error."""

import json
import pathlib
import shutil

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd import zoo

FOLDER = pathlib.Path(__file__).parents[2] / "zoo"
INDEX = json.loads((FOLDER.parent / "keras_kd" / "zoo" / "index.json").read_text(encoding="utf-8"))
METRICS = {
    "accuracy": lambda: None,
    "auc": lambda: [keras.metrics.AUC(from_logits=True, name="auc")],
    "mean_iou": lambda: [keras.metrics.MeanIoU(11, sparse_y_pred=False, name="mean_iou")],
}


@pytest.mark.parametrize("name", sorted(INDEX))
def test_a_file_gives_the_stated_number_on_its_sample(name):
    student = kd.zoo.load(name)
    metrics = METRICS[student.metric]()
    result = kd.evaluate_tflite(
        student.path, student.sample, metrics=metrics, runs=1, verbose=False
    )
    found = result.metrics[student.metric] if metrics else result.accuracy
    assert found == pytest.approx(INDEX[name]["sample_value"], abs=1e-6)
    assert student.metadata["sha256"] == INDEX[name]["files"]["student.tflite"]
    assert student.metadata["bytes"] == student.path.stat().st_size


@pytest.mark.parametrize("name", sorted(INDEX))
def test_the_keras_student_answers_as_its_file_does(name):
    student = kd.zoo.load(name)
    assert isinstance(student.student, keras.Model) and student.inputs in (
        FOLDER / name / "README.md"
    ).read_text(encoding="utf-8")
    dtypes = {each["dtype"] for each in student.metadata["inputs"]}
    assert dtypes == {student.inputs.split()[0]}
    compared = kd.compare(student.path, student.sample[0], student.student)
    assert compared.agreement >= 0.95


def test_all_of_them_fit_into_5_megabytes():
    sizes = [file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()]
    assert 0 < sum(sizes) <= 5_000_000


def test_the_index_lists_every_file():
    listed = {f"{name}/{file}" for name, entry in INDEX.items() for file in entry["files"]}
    here = {file.relative_to(FOLDER).as_posix() for file in FOLDER.rglob("*") if file.is_file()}
    assert listed == here and kd.zoo.names() == sorted(INDEX)


def test_an_unknown_name_gets_a_suggestion():
    name = kd.zoo.names()[0]
    with pytest.raises(ValueError, match=f"Did you mean '{name}'"):
        kd.zoo.load(f"{name}s")


@pytest.mark.parametrize("name", ["../zoo", "/etc", ""])
def test_a_name_is_no_path(name):
    with pytest.raises(ValueError, match="must be one of"):
        kd.zoo.load(name)


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """The zoo at another address, and no checkout beside the package."""
    source = tmp_path / "served"
    shutil.copytree(FOLDER, source)
    monkeypatch.setattr(zoo, "_CHECKOUT", tmp_path / "nothing")
    monkeypatch.setattr(zoo, "_ADDRESS", source.as_uri())
    return source


def test_files_are_downloaded_once(elsewhere, tmp_path):
    name = kd.zoo.names()[0]
    folder = tmp_path / "cache"
    first = kd.zoo.load(name, folder)
    assert first.path.read_bytes() == (FOLDER / name / "student.tflite").read_bytes()
    shutil.rmtree(elsewhere)
    again = kd.zoo.load(name, folder)
    assert folder in again.path.parents and again.path == first.path
    assert np.array_equal(again.sample[1], first.sample[1])


def test_another_file_at_the_address_is_refused(elsewhere, tmp_path):
    name = kd.zoo.names()[0]
    (elsewhere / name / "student.tflite").write_bytes(b"another file")
    with pytest.raises((ValueError, FileNotFoundError), match=r"student\.tflite"):
        kd.zoo.load(name, tmp_path / "cache")


def test_a_file_that_was_changed_on_this_machine_is_refused(monkeypatch, tmp_path):
    shutil.copytree(FOLDER, tmp_path / "zoo")
    monkeypatch.setattr(zoo, "_CHECKOUT", tmp_path / "zoo")
    name = kd.zoo.names()[0]
    file = tmp_path / "zoo" / name / "student.keras"
    file.write_bytes(file.read_bytes() + b"0")
    with pytest.raises(ValueError, match="not the file that this version"):
        kd.zoo.load(name)


def test_without_files_and_network_one_error_says_so(elsewhere, tmp_path):
    shutil.rmtree(elsewhere)
    with pytest.raises(FileNotFoundError, match="cannot be downloaded"):
        kd.zoo.load(kd.zoo.names()[0], tmp_path / "cache")
