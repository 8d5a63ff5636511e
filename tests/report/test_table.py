from __future__ import annotations

import pytest

from keras_kd.report import format_table
from keras_kd.report.table import COLUMNS


def words(line):
    return " ".join(line.split())


def test_table(result):
    lines = format_table(result, COLUMNS).splitlines()
    assert len(lines) == 2 + len(result["models"])
    assert words(lines[0]) == (
        "model parameters not zero file zipped accuracy points measured on latency ms size ratio"
    )
    assert words(lines[-1]) == (
        "Pruned and int8 48,000 24,400 50.0 kB 31.0 kB 93.30 ± 0.10 % −0.70 file 0.310 1/100"
    )
    assert words(lines[-2]) == "Pruned 48,000 24,400 – – 93.10 ± 0.20 % −0.90 Keras model – –"


def test_five_columns_fit_a_terminal(result):
    lines = format_table(result).splitlines()
    assert words(lines[0]) == "model accuracy points file size ratio"
    assert words(lines[-1]) == "Pruned and int8 93.30 ± 0.10 % −0.70 50.0 kB 1/100"
    assert words(lines[-2]) == "Pruned 93.10 ± 0.20 % (Keras model) −0.90 – –"
    assert max(map(len, lines)) <= 80


def test_an_unknown_column_is_refused(result):
    with pytest.raises(ValueError, match="size ratio"):
        format_table(result, ["model", "bytes"])


def test_columns_are_aligned(result):
    lines = format_table(result, COLUMNS).splitlines()
    end = lines[0].index("parameters") + len("parameters")
    for line, model in zip(lines[2:], result["models"], strict=True):
        assert line[:end].endswith(f"{model['parameters']:,}")
        assert line[end] == " "
