from __future__ import annotations

from keras_kd.report import format_table


def words(line):
    return " ".join(line.split())


def test_table(result):
    lines = format_table(result).splitlines()
    assert len(lines) == 2 + len(result["models"])
    assert words(lines[0]) == (
        "model parameters not zero file zipped accuracy points measured on latency ms "
        "bytes vs teacher"
    )
    assert words(lines[-1]) == (
        "Pruned and int8 48,000 24,400 50.0 kB 31.0 kB 93.30 ± 0.10 % −0.70 file 0.310 1/100"
    )
    assert words(lines[-2]) == "Pruned 48,000 24,400 – – 93.10 ± 0.20 % −0.90 Keras model – –"


def test_columns_are_aligned(result):
    lines = format_table(result).splitlines()
    end = lines[0].index("parameters") + len("parameters")
    for line, model in zip(lines[2:], result["models"], strict=True):
        assert line[:end].endswith(f"{model['parameters']:,}")
        assert line[end] == " "
