"""Tiny models and data for the commands, made once, and the command run in a folder of its own."""

from __future__ import annotations

import json
import pathlib
import re

import keras
import numpy as np
import pytest

from keras_kd.cli import main
from keras_kd.cli.commands import COMMANDS

CLASSES = ["cat", "dog", "fish"]


def images(count, seed):
    """Return gray 8x8 images whose class is the third of the image that is bright."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    x = rng.integers(0, 90, (count, 8, 8, 1))
    for i, label in enumerate(labels):
        x[i, 3 * label : 3 * label + 2] += 150
    return x.astype("uint8"), labels


def network(channels, activation, name):
    inputs = keras.Input((8, 8, 1), name="image")
    x = keras.layers.Conv2D(channels, 3, activation="relu", name="conv")(inputs)
    x = keras.layers.Flatten(name="flatten")(x)
    outputs = keras.layers.Dense(3, activation=activation, name="answer")(x)
    return keras.Model(inputs, outputs, name=name)


@pytest.fixture(scope="session")
def materials(tmp_path_factory):
    """A folder with big.keras (softmax), small.keras (logits), train.npz, test.npz, pictures/."""
    folder = tmp_path_factory.mktemp("materials")
    keras.utils.set_random_seed(0)
    x, y = images(96, 0)
    big = network(8, "softmax", "big")
    big.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    big.fit(x / 255.0, y, epochs=8, verbose=0)
    big.save(folder / "big.keras")
    network(2, None, "small").save(folder / "small.keras")
    np.savez(folder / "train.npz", x=x, y=y, class_names=CLASSES)
    x, y = images(30, 1)
    np.savez(folder / "test.npz", x=x, y=y, class_names=CLASSES)
    for i, (image, label) in enumerate(zip(x, y, strict=True)):
        path = folder / "pictures" / CLASSES[label] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        keras.utils.save_img(path, image, scale=False)
    return folder


@pytest.fixture
def work(materials, tmp_path, monkeypatch):
    """Change into an empty folder with links to the materials."""
    for path in materials.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def keras_kd_json(work, capsys):
    """Return a function that runs a command with `--json` and returns exit code and result."""

    def run(*arguments):
        capsys.readouterr()
        code = main([*arguments, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def keras_kd(work, capsys):
    """Return a function that runs a command and returns exit code, stdout and stderr."""

    def run(*arguments):
        code = main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def files_of_help():
    """Return a function that gives the files which a command's help says that it writes."""

    def find(command):
        text = COMMANDS[command].help.split("--out then holds")[1]
        found = set(re.findall(r"\w[\w./]*\.(?:keras|html|json|toml)\b(?:\.json)?", text))
        assert {"result.json", "recipe.toml"} <= found
        return sorted(found)

    return find


@pytest.fixture(scope="session")
def distilled(materials, tmp_path_factory):
    """The folder of a finished `distill`, made once; its model files are given by full path."""
    out = tmp_path_factory.mktemp("distilled") / "run"
    code = main(distill_words(materials, out))
    assert code == 0
    return pathlib.Path(out)


def distill_words(materials, out, epochs=3):
    return [
        "distill", "--teacher", str(materials / "big.keras"), "--student",
        str(materials / "small.keras"), "--data", str(materials / "train.npz"), "--scale", "255",
        "--epochs", str(epochs), "--learning-rate", "0.02", "--batch-size", "16",
        "--out", str(out), "--quiet",
    ]  # fmt: skip
