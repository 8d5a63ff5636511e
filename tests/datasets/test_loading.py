from __future__ import annotations

import pathlib
import subprocess
import sys
import time

import pytest

from keras_kd.datasets import load
from keras_kd.datasets.loading import _impatient_downloads


@pytest.fixture
def no_network(monkeypatch):
    # Port 9 of this machine refuses connections: every download fails, whatever the network is.
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_absent_data_without_a_network(no_network, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "/some/folder")
    start = time.monotonic()
    with pytest.raises(FileNotFoundError) as error:
        load("mnist", split="train", data_dir=tmp_path)
    assert time.monotonic() - start < 15
    message = str(error.value)
    assert "'mnist'" in message and str(tmp_path) in message
    assert "TFDS_DATA_DIR" in message and "'/some/folder'" in message
    assert "digits" in message
    assert "\n" not in message


def test_another_process_prepared_the_data_meanwhile(monkeypatch):
    given = []

    def prepare(name, split, **kwargs):
        given.append(name)
        if len(given) == 1:
            raise FileExistsError("Cannot rename incomplete.X_1.0.0. Destination already exists.")
        return split

    monkeypatch.setattr("tensorflow_datasets.load", prepare)
    assert load("digits", split="train") == "train" and given == ["digits", "digits"]


def test_absent_data_when_downloading_is_forbidden(tmp_path, monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    with pytest.raises(FileNotFoundError, match=r"TFDS_DATA_DIR.*\(it is not set\)"):
        load("mnist", split="train", data_dir=tmp_path, download=False)


def test_downloads_are_as_patient_as_before_afterwards(no_network, tmp_path):
    from tensorflow_datasets.core.download import downloader

    before = downloader.MAX_RETRIES, downloader._open_url
    with _impatient_downloads():
        assert downloader.MAX_RETRIES == 2
    with pytest.raises(FileNotFoundError):
        load("mnist", split="train", data_dir=tmp_path)
    assert (downloader.MAX_RETRIES, downloader._open_url) == before


def test_unknown_name_lists_close_names(tmp_path):
    with pytest.raises(ValueError, match=r"no dataset 'fashon_mnist'.*fashion_mnist"):
        load("fashon_mnist", split="train", data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"Names close to it: digits"):
        load("digit", split="train", data_dir=tmp_path)


def test_unknown_split_is_not_taken_for_absent_data(tmp_path):
    with pytest.raises(ValueError, match="validation"):
        load("digits", split="validation", data_dir=tmp_path)


def test_other_errors_pass(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tfds, "load", full)
    with pytest.raises(OSError, match="No space left") as error:
        load("digits", split="train", data_dir=tmp_path)
    assert not isinstance(error.value, FileNotFoundError)


@pytest.mark.promise
def test_importing_keras_kd_does_not_import_tfds():
    code = "import sys, keras_kd; assert 'tensorflow_datasets' not in sys.modules"
    root = pathlib.Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
