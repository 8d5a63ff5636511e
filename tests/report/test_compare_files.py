import json
import types

import pytest

from keras_kd.report import compare_files, files_table


def result(accuracy, size, metrics=None, batch=1):
    return types.SimpleNamespace(
        accuracy=accuracy,
        metrics=metrics,
        bytes=size,
        zipped_bytes=size // 2,
        latency_ms=0.5,
        latency_batch=batch,
    )


def rows(table):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]


def test_one_result_each():
    table = rows(compare_files({"teacher": result(0.91, 40_000), "student": result(0.905, 4_000)}))
    assert table[0][1] == "accuracy"
    assert table[2] == ["teacher", "91.00 %", "–", "40.0 kB", "20.0 kB", "1.00×", "0.500"]
    assert table[3] == ["student", "90.50 %", "−0.50", "4.00 kB", "2.00 kB", "1/10", "0.500"]


def test_mean_and_spread_over_the_seeds(tmp_path):
    runs = {
        "teacher": [result(None, 100, {"rmse": 0.5}), result(None, 100, {"rmse": 0.7})],
        "student": [result(None, 50, {"rmse": 0.8}), result(None, 50, {"rmse": 0.8})],
    }
    text = compare_files(runs, "rmse", tmp_path / "new")
    table = rows(text)
    assert "of 2 seeds" in table[0][1]
    assert table[2][1] == "0.6000 ± 0.14"
    assert table[3][1:3] == ["0.8000 ± 0", "+0.2"]
    record = json.loads((tmp_path / "new" / "results.json").read_text())
    assert record["files"]["teacher"]["values"] == [0.5, 0.7]
    assert (tmp_path / "new" / "table.md").read_text() == text + "\n" == files_table(record) + "\n"


def test_the_accuracy_is_that_of_the_file_and_not_a_metric_of_that_name():
    runs = {"a": result(0.95, 100), "b": result(0.94, 100, {"accuracy": 0.6})}
    assert rows(compare_files(runs))[3][1:3] == ["94.00 %", "−1.00"]


def test_seeds_are_counted_for_all_files():
    runs = {"a": result(0.9, 100), "b": [result(0.9, 100)] * 3}
    assert rows(compare_files(runs))[0][1] == "accuracy, mean ± standard deviation of 1 to 3 seeds"


def test_the_latency_of_a_fixed_batch_says_so():
    assert rows(compare_files({"a": result(0.9, 100, batch=4)}))[2][6] == "0.500 for 4 samples"


def test_sizes_are_divided_by_that_of_the_first_file():
    sizes = {"a": 400, "b": 100, "c": 800}
    files = {
        title: {"values": [0.9], "bytes": size, "zipped_bytes": size, "latency_ms": 1.0}
        for title, size in sizes.items()
    }
    rows = files_table({"metric": "accuracy", "files": files}).splitlines()[2:]
    assert [row.split("|")[6].strip() for row in rows] == ["1.00×", "1/4.00", "2.00×"]


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="'student' has no metric 'rmse'; it has \\['accuracy'\\]"):
        compare_files({"student": result(0.5, 10)}, "rmse")
    with pytest.raises(ValueError, match="at least one result"):
        compare_files({})
    with pytest.raises(ValueError, match="no result of 'student'"):
        compare_files({"student": []})
