import json
import pathlib

import keras
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark(load_script):
    return load_script("benchmarks/export_variants.py")


@pytest.fixture
def subject(benchmark):
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 1))
    x = keras.layers.Conv2D(4, 3, activation="relu")(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(3)(x))
    images = np.random.default_rng(0).normal(size=(64, 6, 6, 1)).astype("float32")
    return benchmark.Subject(model, images, (images, np.zeros(64, int)))


def test_forms_that_make_no_sense_are_left_out(benchmark, subject):
    assert not benchmark.asked(subject, "float32, sparse", benchmark.OURS)
    assert benchmark.asked(subject, "int8", benchmark.KERAS)
    subject.quantization_aware = True
    assert not benchmark.asked(subject, "int8", benchmark.KERAS)
    assert not benchmark.asked(subject, "float16", benchmark.OURS)
    assert benchmark.asked(subject, "int8, integer I/O", benchmark.OURS)


def test_rows_are_measured_and_failures_are_rows(benchmark, subject, tmp_path, monkeypatch):
    def fails(subject, path):
        raise RuntimeError("cannot do that")

    chosen = [form for form in benchmark.FORMS if form[:2] in {
        ("int8", benchmark.OURS), ("int8", benchmark.KERAS)
    }]  # fmt: skip
    monkeypatch.setattr(benchmark, "FORMS", [*chosen, ("int8", "somebody", fails)])
    ours, theirs, failed = benchmark.measure(subject, tmp_path)
    assert ours["bytes"] <= theirs["bytes"]
    assert 0 <= ours["accuracy"] <= 1 and ours["agreement"] > 0.9 and ours["latency_ms"] > 0
    assert failed["error"] == "RuntimeError"
    lines = benchmark.table({"small": [ours, theirs, failed]}).splitlines()
    assert len(lines) == 5
    assert {line.count("|") for line in lines} == {10}
    assert "fails: RuntimeError" in lines[-1]


def test_the_page_quotes_the_kept_results(benchmark):
    kept = json.loads((ROOT / "exports/reference/export_variants.json").read_text())
    assert benchmark.table(kept) in (ROOT / "docs/measured/export_variants.md").read_text()
    assert {"MobileNetV2", "EfficientNetB0"} < set(kept)
