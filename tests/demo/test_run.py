import dataclasses
import json

import pytest

from keras_kd.demo import recipes
from keras_kd.demo.measuring import VARIANTS
from keras_kd.demo.run import run_demo
from keras_kd.report import read_report


@pytest.fixture(scope="module")
def short_recipe():
    recipe = recipes.RECIPES["digits"]
    short = dataclasses.replace(
        recipe,
        views=2,
        # One block each: the time goes into building and converting, not into training.
        teacher_widths=(8,),
        teacher_blocks=(1,),
        student_widths=(16,),
        student_blocks=(1,),
        teacher_epochs=2,
        student_epochs=2,
        prune_epochs=2,
        quantize_epochs=1,
    )
    recipes.RECIPES["digits"] = short
    yield short
    recipes.RECIPES["digits"] = recipe


@pytest.mark.promise
def test_whole_run_and_going_on(short_recipe, tmp_path):
    lines = []
    result = run_demo("digits", tmp_path, seeds=2, say=lines.append)

    assert [model["key"] for model in result["models"]] == [variant.key for variant in VARIANTS]
    report = json.loads((tmp_path / "report.json").read_text())
    rows = {model["key"]: model for model in report["models"]}
    assert set(rows["distilled"]["seeds"]) == {"0", "1"}
    assert set(rows["teacher"]["seeds"]) == set(rows["int8"]["seeds"]) == {"0"}
    assert report["seconds"]["teacher's outputs"] > 0
    for model in report["models"]:
        path = tmp_path / model["file"]["path"]
        assert path.stat().st_size == model["file"]["bytes"]
        assert 0 <= model["accuracy"]["mean"] <= 1
        assert model["file"]["latency_ms"] > 0
    assert rows["pruned"]["nonzero_parameters"] < 0.7 * rows["pruned"]["parameters"]
    # Zeros survive the training for int8: no fewer than before it.
    assert rows["int8"]["nonzero_parameters"] <= rows["pruned"]["nonzero_parameters"]
    assert rows["int8"]["file"]["bytes"] < rows["distilled"]["file"]["bytes"]
    assert rows["int8"]["file"]["agreement"] > 0.9
    layers = [layer for layer in rows["int8"]["layers"] if layer["sparsity"] is not None]
    assert min(layer["sparsity"] for layer in layers) > 0.4
    assert all(layer["bits"] == 8 and layer["bytes"] > 0 for layer in layers)
    sizes = [layer["bytes"] for layer in rows["int8"]["layers"]]
    assert sum(sizes) + rows["int8"]["other_bytes"] == rows["int8"]["file"]["bytes"]
    curves = [curve for model in report["models"] for curve in model["curves"]]
    assert {curve["stage"] for curve in curves} == {
        "teacher",
        "student_alone",
        "distilled",
        "prune",
        "quantize_aware",
    }
    assert [curve["seed"] for curve in rows["distilled"]["curves"]] == [0, 1]
    assert [stage["name"] for stage in rows["pruned"]["stages"]] == ["student", "prune"]
    for row in (rows["teacher"], rows["int8"]):
        # What is told by class and by confidence is told of the same samples.
        right = sum(row["confusion"][i][i] for i in range(10))
        assert right / row["samples"] == pytest.approx(row["seeds"]["0"]["accuracy"])
        assert sum(entry["samples"] for entry in row["calibration"]["bins"]) == row["samples"]
    assert read_report(tmp_path) == report
    assert "| Pruned, int8 |" in (tmp_path / "model_card.md").read_text()
    page = (tmp_path / "report.html").read_text()
    assert "Pruned, int8" in page
    assert any("Pruned, int8" in line for line in lines)

    # A part that is missing is made again; what is there is taken as it is.
    (tmp_path / "seed0" / "int8.measured.json").unlink()
    kept = (tmp_path / "teacher.keras").stat().st_mtime_ns
    lines.clear()
    again = run_demo("digits", tmp_path, seeds=2, say=lines.append)
    assert (tmp_path / "teacher.keras").stat().st_mtime_ns == kept
    assert [line for line in lines if line.endswith("measure")] == ["Seed 0: Pruned, int8: measure"]
    for before, after in zip(result["models"], again["models"], strict=True):
        assert before["seeds"] == after["seeds"]


def test_another_recipes_folder_is_refused(short_recipe, tmp_path):
    (tmp_path / "recipe.json").write_text('{"dataset": "other"}')
    with pytest.raises(ValueError, match="another recipe"):
        run_demo("digits", tmp_path)
    assert json.loads((tmp_path / "recipe.json").read_text()) == {"dataset": "other"}


def test_bad_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="choose one of: digits, fashion_mnist"):
        run_demo("imagenet", tmp_path)
    with pytest.raises(ValueError, match="`seeds`"):
        run_demo("digits", tmp_path, seeds=0)


def test_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="is a file"):
        run_demo("digits", tmp_path / "file" / "run")
