"""The code of the guide runs, in one process, as it stands there."""

from __future__ import annotations

import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd

GUIDE = pathlib.Path(__file__).parents[2] / "docs" / "guides" / "scale.md"


def network(width=3, tokens=False):
    inputs = keras.Input((5,), dtype="int32" if tokens else "float32")
    x = keras.layers.Embedding(9, 4)(inputs) if tokens else inputs
    return keras.Model(inputs, keras.layers.Dense(width)(x))


@pytest.mark.fast_cases("2")
@pytest.mark.parametrize("number", [0, 1, 2])
def test_code_of_the_guide_runs(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.S | re.M)
    assert len(blocks) == 3
    random = np.random.default_rng(0)
    names = {"tf": tf, "keras": keras, "kd": kd}
    if number < 2:
        x, y = random.normal(size=(512, 5)).astype("float32"), random.integers(0, 3, 512)
        names |= {"make_teacher": network, "make_student": network}
        names["train"] = tf.data.Dataset.from_tensor_slices((x, y))
    else:
        x, weight = random.integers(1, 9, (8, 5)).astype("int32"), np.ones((8, 5), "float32")
        names |= {"teacher": network(70, tokens=True), "student": network(70, tokens=True)}
        names["train"] = tf.data.Dataset.from_tensor_slices((x, x, weight)).batch(4)
    code = blocks[number]
    if number == 1:
        # One worker: it has no cluster, and so no number.
        code = code.replace("strategy.cluster_resolver.task_id", "0")
    before = (names["student"] if number == 2 else None) and names["student"].get_weights()
    exec(compile(code, f"scale.md, block {number}", "exec"), names)
    student = names["distiller"].student
    if before is not None:
        assert any((a != b).any() for a, b in zip(before, student.get_weights(), strict=True))
    assert int(names["distiller"].optimizer.iterations.numpy()) > 0
