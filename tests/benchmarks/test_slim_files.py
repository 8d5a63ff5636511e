import json
import pathlib

import keras
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]


def test_the_guide_quotes_the_kept_results(load_script):
    benchmark = load_script("benchmarks/slim_files.py")
    kept = json.loads((ROOT / "exports/reference/slim_files.json").read_text())
    assert benchmark.table_of(kept) in (ROOT / "docs/measured/file_sizes.md").read_text()
    for row in kept:
        assert row["numbers"] < row["after"] < row["with_names"] < row["before"]
        assert len(row["equal_answers"]) == (3 if row["form"] == "int8" else 2)


def test_a_row_is_measured_from_the_file_itself(load_script):
    pytest.importorskip("tflite_micro")
    benchmark = load_script("benchmarks/slim_files.py")
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 1))
    y = keras.layers.Conv2D(4, 3, activation="relu")(keras.layers.Conv2D(4, 3)(x))
    model = keras.Model(x, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(y)))
    inputs = np.random.default_rng(0).normal(size=(40, 8, 8, 1)).astype("float32")
    content = benchmark.converted(model, "int8", inputs)
    row = benchmark.row_of("small", "int8", content)
    assert row["numbers"] < row["after"] < row["with_names"] < row["before"] == len(content)
    with pytest.raises(AssertionError, match="other answers"):
        benchmark.check_answers(
            "small",
            "int8",
            content,
            benchmark.converted(keras.models.clone_model(model), "int8", inputs),
        )
