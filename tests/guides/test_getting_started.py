"""The code of Getting started runs, and the errors that it explains are those that are raised."""

import pathlib
import re

import keras
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.backend import load_keras

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "getting_started.md"


@pytest.mark.promise
def test_code(run_guide, capsys, monkeypatch):
    names = run_guide("../getting_started.md")
    (shown,) = re.findall(r"^```text\n(.*?)^```", PAGE.read_text(), re.S | re.M)
    assert capsys.readouterr().out.split()[-len(shown.split()) :] == shown.split()

    teacher, student, x, y = (names[name] for name in ("teacher", "student", "x", "y"))
    x, y = x[:32], y[:32]
    logits_loss = kd.losses.KLDivergence(temperature=4.0)

    def distiller(teacher=teacher, losses=logits_loss):
        made = kd.Distiller(teacher, student, losses)
        made.compile("sgd", loss=names["loss"])
        return made

    def on_another_backend():
        monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
        load_keras()

    fewer = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    raised_by = [
        lambda: distiller(keras.Sequential([teacher, keras.layers.Softmax()])),
        lambda: distiller(fewer),
        lambda: distiller(losses=kd.Hint("hidden", "missing")),
        lambda: distiller().fit(x, y + 1, verbose=0),
        lambda: distiller().fit(tf.data.Dataset.from_tensor_slices((x, y)), verbose=0),
        lambda: distiller().fit(x, verbose=0),
        lambda: kd.export_tflite(student, "refused.tflite", "int8", verbose=False),
        lambda: kd.compress(distiller(), (x, y), stages=[kd.QuantizeAware(), kd.Prune(0.5)]),
        on_another_backend,
    ]
    rows = re.findall(
        r"^\| `(.*?)` \| .* \| .* \|$", PAGE.read_text().split("message says")[1], re.M
    )
    for message, call in zip(rows, raised_by, strict=True):
        with pytest.raises((ValueError, ImportError), match=re.escape(message)):
            call()
