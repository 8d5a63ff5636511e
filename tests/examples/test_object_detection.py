"""The example's metric, its labels, and its way from the data to measured files."""

import ast
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / "examples/object_detection.py"


@pytest.fixture
def example():
    """The names that the script defines for labels and metric, for a grid of 8x8 and 2 classes."""
    wanted = {"encode", "mirror", "decode", "MeanAveragePrecision"}
    nodes = [
        node
        for node in ast.parse(SCRIPT.read_text()).body
        if getattr(node, "name", None) in wanted or ast.unparse(node).startswith("CENTERS =")
    ]
    names = {"keras": keras, "np": np, "tf": tf, "GRID": 8, "MOST": 5, "CLASSES": 2}
    exec(compile(ast.Module(nodes, []), str(SCRIPT), "exec"), names)
    return names


def padded(rows, length=5):
    rows = np.array(rows, "float32").reshape(-1, 5)
    return np.concatenate([rows, np.full((length - len(rows), 5), -1, "float32")])


# Two images: four objects of class 0, one of class 1.
A, B, C = [0.0, 0.0, 0.4, 0.4], [0.5, 0.5, 0.9, 0.9], [0.0, 0.6, 0.2, 1.0]
OBJECTS = np.stack([padded([[*A, 0], [*B, 0], [*C, 1]]), padded([[*A, 0], [*B, 0]])])


def test_mean_average_precision_by_hand(example):
    found = [
        [
            (A, 0.9, 0),  # right
            ([0.0, 0.0, 0.4, 0.3], 0.8, 0),  # of IoU 0.75 with A, which is taken: wrong
            ([0.5, 0.5, 0.9, 0.72], 0.7, 0),  # of IoU 0.55 with B: right
            (A, 0.95, 1),  # no object of class 1: wrong
            (C, 0.5, 1),  # right
        ],
        [(A, 0.6, 0)],  # right; B is missed
    ]

    def detections(outputs):
        rows = [sorted(image, key=lambda one: -one[1]) for image in outputs]
        filled = [row + [([0.0] * 4, 0.0, 0.0)] * (5 - len(row)) for row in rows]
        boxes, scores, classes = (
            np.array([[one[i] for one in row] for row in filled], "float32") for i in range(3)
        )
        return boxes, scores, classes, np.array([len(row) for row in rows])

    example["decode"] = detections
    metric = example["MeanAveragePrecision"]()
    for i in range(2):  # over batches
        metric.update_state({"objects": OBJECTS[i : i + 1]}, found[i : i + 1])
    # Class 0, the surest first: right, wrong, right, right; precisions 1, 1/2, 2/3, 3/4. The third
    # is raised to 3/4 and one of four objects is missed. Class 1: wrong, right; precision 1/2.
    expected = ((1 + 3 / 4 + 3 / 4 + 0) / 4 + 1 / 2) / 2
    assert float(metric.result()) == pytest.approx(expected)
    metric.reset_state()
    metric.update_state({"objects": OBJECTS}, [[], [([0.5, 0.5, 0.9, 0.68], 0.7, 0)]])
    assert float(metric.result()) == 0.0  # an IoU of 0.45, and nothing found of the others


def test_labels_and_decoding_are_each_other_s_inverse(example):
    labels, weights = zip(*(example["encode"](tf.constant(one)) for one in OBJECTS), strict=True)
    classes = np.stack([one["classes"] for one in labels]).astype(int)
    # A reaches to 3.2 cells, its center is at 1.6: the cells with centers at 1.5 and 2.5.
    assert np.argwhere(classes[1][:4, :4]).tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    assert labels[1]["boxes"][1, 2].numpy() == pytest.approx([1.5, 2.5, 1.7, 0.7])
    assert np.array_equal(weights[0]["boxes"], classes[0] > 0)
    outputs = {
        "classes": 20 * np.eye(3, dtype="float32")[classes],
        "boxes": np.stack([one["boxes"] for one in labels]),
    }
    boxes, scores, found, counts = example["decode"](outputs)
    assert counts.tolist() == [3, 2] and scores[0, :3] == pytest.approx(1.0)
    for i, row in enumerate(OBJECTS):
        expected = sorted(map(tuple, row[row[:, 4] >= 0].round(4).tolist()))
        decoded = np.concatenate([boxes[i], found[i][:, None]], 1)[: counts[i]]
        assert np.array(sorted(map(tuple, decoded.round(4).tolist()))) == pytest.approx(
            np.array(expected), abs=1e-4
        )
    metric = example["MeanAveragePrecision"]()
    metric.update_state({"objects": OBJECTS}, outputs)
    assert float(metric.result()) == 1.0


def test_a_mirrored_scene_has_the_labels_of_its_mirrored_objects(example):
    objects = OBJECTS[0].copy()
    turned = np.where(objects[:, 4:] >= 0, objects, -1)
    turned[:3, [1, 3]] = 1 - objects[:3, [3, 1]]
    image = np.random.default_rng(0).random((64, 64, 1)).astype("float32")
    seen, labels, weights = example["mirror"](image, *example["encode"](tf.constant(objects)))
    expected, expected_weights = example["encode"](tf.constant(turned))
    assert np.array_equal(seen, image[:, ::-1])
    assert np.array_equal(labels["classes"], expected["classes"])
    assert np.array_equal(weights["boxes"], expected_weights["boxes"])
    there = weights["boxes"].numpy() > 0
    assert labels["boxes"].numpy()[there] == pytest.approx(
        expected["boxes"][there].numpy(), abs=1e-5
    )


@pytest.mark.slow
def test_runs_in_quick_mode(run_quick):
    run = run_quick("object_detection")
    assert run.metric == "map"
    assert list(run.files) == [
        "teacher",
        "student alone",
        "student alone, int8",
        "distilled",
        "distilled, int8",
        "distilled, pruned, int8",
    ]
    for file in run.files.values():
        assert 0 <= file["values"][0] <= 1
    int8 = run.files["distilled, pruned, int8"]
    assert int8["bytes"] * 10 < run.files["teacher"]["bytes"]
