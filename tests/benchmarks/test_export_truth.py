import json
import pathlib

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark(load_script):
    return load_script("benchmarks/export_truth.py")


def test_the_page_quotes_the_kept_results(benchmark):
    kept = json.loads((ROOT / "exports/reference/export_truth.json").read_text())
    page = (ROOT / "docs/measured/export_truth.md").read_text()
    assert benchmark.table(kept, benchmark.ON_THE_PAGE) in page
    for title in ("planted: channel of 1000", "planted: uneven kernel", "planted: mask of -1e9"):
        found = {row["form"]: row for row in kept[title] if row["way"] == benchmark.OURS}
        assert min(found[form]["agreement"] for form in ("int8", "dynamic")) >= 0.99
        assert found["int8, within 0.5 points"]["within"]
        assert found["int8, within 0.5 points"]["integer_operations"] >= 0.9


def test_a_failure_is_a_row(benchmark):
    rows = [{"form": "int8", "way": "somebody", "error": "RuntimeError"}]
    assert "fails: RuntimeError" in benchmark.table({"small": rows})


@pytest.mark.parametrize("fault", ["dead_channel", "uneven_kernel"])
def test_a_planted_fault_changes_no_answer(load_script, fault, monkeypatch):
    subjects = load_script("benchmarks/export_subjects.py")
    monkeypatch.setattr(subjects, "fitted", lambda model, x, y, epochs: model)
    sound, _, (images, _), _ = subjects.student()
    faulty, *_ = getattr(subjects, fault)()
    expected, found = (model.predict(images[:64], verbose=0) for model in (sound, faulty))
    np.testing.assert_allclose(found, expected, atol=1e-4)
