import ast
import dataclasses
import inspect
import json

import pytest

from keras_kd.demo import run as demo
from keras_kd.report import read_report


def test_the_demonstration_uses_public_names_alone():
    imported = {
        name
        for node in ast.walk(ast.parse(inspect.getsource(demo)))
        for name in (
            [node.module]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else []
        )
        if name.startswith("keras_kd")
    }
    assert imported == {"keras_kd", "keras_kd.demo.networks"}


def files(alone, taught):
    rows = {"student_alone": alone, "distilled": taught}
    return {
        key: {seed: {"accuracy": value} for seed, value in enumerate(values)}
        for key, values in rows.items()
    }


@pytest.mark.parametrize(
    "alone, taught, token",
    [
        ([0.6, 0.7, 0.65], [0.7, 0.78, 0.76], "+9.7 points (by seed: +10.0, +8.0, +11.0)."),
        ([0.6, 0.7], [0.7, 0.69], "not clear of chance"),
        ([0.7, 0.7], [0.6, 0.6], "−10.0 points"),
        ([0.6], [0.7], "one seed"),
    ],
)
def test_the_verdict_says_what_was_measured(alone, taught, token):
    assert token in demo._verdict(files(alone, taught))


def test_labels_are_drawn_equally_and_by_seed():
    train, test, classes = demo.load_data("digits")
    assert len(train[0]) == 1287 and test[0].shape == (510, 8, 8, 1) and len(classes) == 10
    x, y = demo.draw_labeled(train, 60, seed=1)
    assert x.shape == (60, 8, 8, 1) and [int((y == c).sum()) for c in range(10)] == [6] * 10
    assert (demo.draw_labeled(train, 60, seed=1)[0] == x).all()
    assert not (demo.draw_labeled(train, 60, seed=2)[0] == x).all()


@pytest.fixture(scope="module")
def short():
    """A recipe of a few steps, in the place of the one of digits."""
    recipe = demo.RECIPES["digits"]
    demo.RECIPES["digits"] = dataclasses.replace(
        recipe,
        teacher=((8,), (1,)),
        student=((4,), (1,)),
        steps=4,
        teacher_epochs=1,
        student_epochs=2,
        quantize_epochs=1,
    )
    yield
    demo.RECIPES["digits"] = recipe


@pytest.mark.slow
def test_whole_run_and_resuming(short, tmp_path):
    lines = []
    result = demo.run_demo("digits", tmp_path, seeds=2, first_seed=3, say=lines.append)
    assert "on 2 idle cores" in lines[0]
    report = read_report(tmp_path)
    rows = {model["key"]: model for model in report["models"]}
    assert list(rows) == ["teacher", "student_alone", "distilled", "int8"]
    for row in rows.values():
        assert set(row["seeds"]) == {"3", "4"}
        path = tmp_path / row["file"]["path"]
        assert path.stat().st_size == row["file"]["bytes"]
        assert row["file"]["latency_ms"] > 0 and row["samples"] == 510
        right = sum(row["confusion"][i][i] for i in range(10))
        assert right / 510 == pytest.approx(row["seeds"]["3"]["accuracy"])
    assert rows["int8"]["file"]["bytes"] < rows["teacher"]["file"]["bytes"]
    assert "INT8" in rows["int8"]["file"]["constant_types"]
    assert [curve["seed"] for curve in rows["distilled"]["curves"]] == [3, 4]
    assert len(rows["distilled"]["curves"][0]["epochs"]) == 2
    assert [stage["name"] for stage in rows["int8"]["stages"]] == ["student", "quantize_aware"]
    assert report["command"] == "keras-kd demo --dataset digits --seeds 2 --first-seed 3"
    # What was chosen, and on which images.
    assert sum("chosen by the accuracy on the held-out images" in n for n in report["notes"]) == 2
    assert (
        demo._verdict(
            files(
                *(
                    [s["accuracy"] for s in rows[key]["seeds"].values()]
                    for key in ("student_alone", "distilled")
                )
            )
        )
        in report["notes"]
    )
    card = (tmp_path / "model_card.md").read_text()
    assert card.startswith("# Student taught, int8")
    page = (tmp_path / "report.html").read_text()
    assert "Taught by the teacher, the student is" in page.split("<table")[0]
    # The test images decided nothing.
    assert "counts of test samples" in page and "optimistic" not in page + card

    # A part that is missing is made again; what is there is taken as it is.
    (tmp_path / "seed4" / "int8.measured.json").unlink()
    trained = {path: path.stat().st_mtime_ns for path in tmp_path.glob("seed*/*.keras")}
    assert len(trained) == 2 * 3 + 2
    again = demo.run_demo("digits", tmp_path, seeds=2, first_seed=3, say=lines.append)
    assert trained == {path: path.stat().st_mtime_ns for path in tmp_path.glob("seed*/*.keras")}
    for before, after in zip(result["models"], again["models"], strict=True):
        assert before["seeds"] == after["seeds"]


def test_another_recipes_folder_is_refused(tmp_path):
    (tmp_path / "recipe.json").write_text('{"dataset": "other"}')
    with pytest.raises(ValueError, match="another recipe"):
        demo.run_demo("digits", tmp_path)
    assert json.loads((tmp_path / "recipe.json").read_text()) == {"dataset": "other"}


def test_bad_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="digits, fashion_mnist"):
        demo.run_demo("imagenet", tmp_path)
    with pytest.raises(ValueError, match="`seeds`"):
        demo.run_demo("digits", tmp_path, seeds=0)
    with pytest.raises(ValueError, match="`first_seed`"):
        demo.run_demo("digits", tmp_path, first_seed=-1)
