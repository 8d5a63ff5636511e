from __future__ import annotations

import contextlib
import json
import types

import numpy as np
import pytest

from keras_kd.compression.running.stage_record import StageRecord
from keras_kd.report.histories import curves_of, stages_of


def record(name, stage, outcome="done", **entries):
    return StageRecord(
        name=name, stage=stage, config={"epochs": 2, "optimizer": object()}, outcome=outcome,
        epochs=2, metrics={"accuracy": 0.9}, metric="accuracy", drop=0.5, parameters=100,
        nonzero_parameters=50, sparsity=0.5, seconds=1.5, **entries,
    )  # fmt: skip


def test_one_history():
    history = types.SimpleNamespace(history={"loss": [2, 1], "epoch": [0, 1], "seconds": 3.0})
    assert curves_of("Teacher", history) == [
        {"title": "Teacher", "seed": None, "epochs": [1, 2], "series": {"loss": [2.0, 1.0]}}
    ]
    assert curves_of("Teacher", None) == []
    assert curves_of("Teacher", {}) == []


def test_epochs_are_those_of_the_history():
    history = types.SimpleNamespace(history={"loss": [2, 1]}, epoch=[10, 11])
    assert curves_of("Teacher", history)[0]["epochs"] == [11, 12]


@pytest.mark.parametrize(
    ("first", "count", "values", "placed"),
    [
        (0, 4, [3, 1], [None, 3, None, 1]),
        (0, 5, [3, 1], [None, 3, None, 1, None]),
        (1, 4, [3, 1], [3, None, 1, None]),  # epochs 2 to 5
        (0, 4, [1], [None, None, None, 1]),
        (0, 11, [3, 1], None),  # every 4th or 5th
    ],
)
def test_validation_every_few_epochs(first, count, values, placed):
    history = types.SimpleNamespace(
        history={"loss": [1] * count, "val_loss": values}, epoch=range(first, first + count)
    )
    told = pytest.warns(UserWarning, match="'val_loss' of 'Teacher' has no curve.* 2 values for 11")
    with contextlib.nullcontext() if placed else told:
        (curve,) = curves_of("Teacher", history)
    assert curve["series"].get("val_loss") == placed


def test_histories_by_title_and_by_seed():
    curves = curves_of(
        "Student",
        {"warm up": {"loss": [1]}, "main": {0: {"loss": [2]}, np.int64(1): {"loss": [3]}}},
    )
    assert [(c["title"], c["seed"], c["series"]["loss"]) for c in curves] == [
        ("warm up", None, [1.0]),
        ("main", 0, [2.0]),
        ("main", 1, [3.0]),
    ]


def test_something_else_is_refused():
    with pytest.raises(TypeError, match="`history` must be what `fit` returned"):
        curves_of("Teacher", [1.0, 2.0])


def test_stages_of_a_compression():
    compressed = types.SimpleNamespace(
        stages=[record("student", "", "before"), record("quantize_aware", "QuantizeAware")],
        history={"quantize_aware": {"loss": [1.0, 0.5]}},
    )
    stages, curves = stages_of(compressed)
    assert [stage["name"] for stage in stages] == ["student", "quantize_aware"]
    assert stages[1]["drop"] == 0.5 and stages[1]["config"]["epochs"] == 2
    json.dumps(stages)
    assert curves[0]["title"] == "Stage quantize_aware" and curves[0]["stage"] == "quantize_aware"


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no run of `kd.compress`"):
        stages_of(tmp_path)
    (tmp_path / "run.json").write_text('{"format": "other"}')
    with pytest.raises(ValueError, match=r"holds no run of `kd.compress`"):
        stages_of(tmp_path)


def test_metrics_with_one_value_per_class_have_no_curve():
    (curve,) = curves_of("run", {"loss": [1.0, 0.5], "f1_score": [[0.1, 0.2], [0.3, 0.4]]})
    assert list(curve["series"]) == ["loss"]
