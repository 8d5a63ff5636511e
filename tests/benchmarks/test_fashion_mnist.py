import dataclasses
import json
import os
import pathlib
import re
import types

import pytest

from keras_kd.report import format_table, read_report

ROOT = pathlib.Path(__file__).parents[2]


def test_the_page_holds_the_table_of_the_kept_run():
    page = (ROOT / "docs/measured/chains.md").read_text()
    (shown,) = re.findall(r"reference/report.json -->\n+(.*?)\n+<!-- /measured", page, re.S)
    result = json.loads((ROOT / "exports/reference/report.json").read_text())
    header, _, *rows = [re.split(r" *\| *", line.strip("| ")) for line in shown.splitlines()]
    first, _, *others = [re.split(r"  +", line) for line in format_table(result).splitlines()]
    assert [header, *rows] == [first, *others]
    assert len(rows) == len(result["models"])


@pytest.fixture(scope="module")
def measuring(load_script):
    return load_script("benchmarks/fashion_mnist.py")


@pytest.fixture
def models(measuring, tmp_path, monkeypatch):
    """A run's folder with one trained student, and a list of what was exported."""
    exported = []

    def export(model, path, **options):
        exported.append(path.name)
        path.write_bytes(b"file")

    result = types.SimpleNamespace(to_dict=lambda: {"accuracy": 0.5})
    monkeypatch.setattr(measuring.kd, "export_tflite", export)
    monkeypatch.setattr(measuring.kd, "evaluate_tflite", lambda *args, **options: result)
    row = {"parameters": 10, "nonzero_parameters": 8}
    monkeypatch.setattr(measuring.kd.report, "model_result", lambda *args, **options: row)
    (tmp_path / "student_alone.keras").write_bytes(b"weights")
    return types.SimpleNamespace(
        folder=tmp_path,
        seed_folder=lambda seed: tmp_path,
        calibration=None,
        test=None,
        exported=exported,
    )


def test_a_file_is_exported_once_and_again_when_its_model_is_newer(measuring, models):
    student = types.SimpleNamespace(count_params=lambda: 10)
    trained = {"student_alone": student, "distilled": student}
    variant = next(v for v in measuring.VARIANTS if v.model == "student_alone")
    lines = []

    def measure():
        return measuring.measure(models, trained, variant, 0, lines.append)

    assert measure() == measure()
    assert len(models.exported) == len(lines) == 1
    later = (models.folder / models.exported[0]).stat().st_mtime + 10
    os.utime(models.folder / "student_alone.keras", (later, later))
    measure()
    assert len(models.exported) == 2
    assert measure()["nonzero_parameters"] == 8


def test_another_recipes_folder_is_refused(measuring, tmp_path):
    (tmp_path / "recipe.json").write_text('{"dataset": "other"}')
    with pytest.raises(ValueError, match="another recipe"):
        measuring.main(["--dataset", "digits", "--out", str(tmp_path)])
    assert (tmp_path / "recipe.json").read_text() == '{"dataset": "other"}'


@pytest.mark.slow
def test_a_whole_run(measuring, tmp_path, monkeypatch):
    recipe = measuring.RECIPES["digits"]
    short = dataclasses.replace(
        recipe,
        views=2,
        teacher_widths=(8,),
        teacher_blocks=(1,),
        student_widths=(16,),
        student_blocks=(1,),
        teacher_epochs=2,
        student_epochs=2,
        prune_epochs=2,
        quantize_epochs=1,
    )
    monkeypatch.setitem(measuring.RECIPES, "digits", short)
    result = measuring.main(["--dataset", "digits", "--seeds", "2", "--out", str(tmp_path)])
    rows = {model["key"]: model for model in read_report(tmp_path)["models"]}
    assert [*rows] == [variant.key for variant in measuring.VARIANTS]
    assert [*rows] == [model["key"] for model in result["models"]]
    assert set(rows["distilled"]["seeds"]) == {"0", "1"}
    assert set(rows["teacher"]["seeds"]) == set(rows["int8"]["seeds"]) == {"0"}
    assert rows["pruned"]["nonzero_parameters"] < 0.7 * rows["pruned"]["parameters"]
    # Zeros survive the training for int8: no fewer than before it.
    assert rows["int8"]["nonzero_parameters"] <= rows["pruned"]["nonzero_parameters"]
    assert rows["int8"]["file"]["agreement"] > 0.9
    sizes = [layer["bytes"] for layer in rows["int8"]["layers"]]
    assert sum(sizes) + rows["int8"]["other_bytes"] == rows["int8"]["file"]["bytes"]
    kept = (tmp_path / "teacher.keras").stat().st_mtime_ns
    measuring.main(["--dataset", "digits", "--seeds", "2", "--out", str(tmp_path)])
    assert (tmp_path / "teacher.keras").stat().st_mtime_ns == kept
