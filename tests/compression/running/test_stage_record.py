import dataclasses

import keras
import numpy as np

from keras_kd.compression.running.stage_record import (
    StageRecord,
    counts,
    record_from_json,
    stage_line,
    stage_table,
)
from keras_kd.compression.running.student_files import as_json

RECORD = StageRecord(
    name="prune",
    stage="Prune",
    config={"sparsity": 0.5},
    outcome="done",
    epochs=4,
    metrics={"loss": 0.3, "accuracy": 0.9123},
    metric="accuracy",
    drop=0.251,
    parameters=12_345,
    nonzero_parameters=6_789,
    sparsity=0.5,
    seconds=12.34,
)


def test_zeros_are_counted_in_kernels_only_and_once():
    class Tied(keras.layers.Layer):
        def __init__(self, table):
            super().__init__()
            self.table = table

        def call(self, x):
            return keras.ops.matmul(x, keras.ops.transpose(self.table.embeddings))

    table = keras.layers.Embedding(5, 4)
    inputs = keras.Input((3,), dtype="int32")
    model = keras.Model(inputs, Tied(table)(keras.layers.Dense(4)(table(inputs))))
    table.embeddings.assign(np.arange(20).reshape(5, 4) % 4)
    assert counts(model, 40) == {"parameters": 40, "nonzero_parameters": 35, "sparsity": 5 / 36}


def test_table_and_line():
    before = dataclasses.replace(
        RECORD,
        name="student",
        outcome="before",
        drop=-0.0,
        epochs=0,
        nonzero_parameters=12_345,
        seconds=0.0,
    )
    left_out = dataclasses.replace(RECORD, name="cluster", outcome="left out", metrics={}, drop=-2)
    assert stage_table([before, RECORD, left_out]).splitlines() == [
        "stage              epochs  accuracy  points  parameters  not zero  seconds",
        "--------------------------------------------------------------------------",
        "student                 –    0.9123   +0.00      12,345    12,345      0.0",
        "prune                   4    0.9123   −0.25      12,345     6,789     12.3",
        "cluster, left out       4         –   +2.00      12,345     6,789     12.3",
    ]
    assert stage_line(RECORD) == (
        "accuracy 0.9123 (−0.25 points), 12,345 parameters, 6,789 not zero, 12 s"
    )
    assert "–  " in stage_table([dataclasses.replace(RECORD, drop=None, metric=None)])


def test_round_trip():
    attempts = ({"config": {"sparsity": 0.9}, "metrics": {"accuracy": 0.5}, "drop": 41.2},)
    record = dataclasses.replace(RECORD, attempts=attempts)
    assert record_from_json(as_json(dataclasses.asdict(record))) == record


def test_a_record_of_the_version_before_is_read():
    content = dataclasses.asdict(RECORD)
    content["nonzero"] = content.pop("nonzero_parameters")
    content["attempts"] = []
    record = record_from_json(content)
    assert record == RECORD and record.nonzero == record.nonzero_parameters == 6_789
