"""The recipe of small students for CIFAR-10: its parts, without training."""

import json
import os
import pathlib
import statistics

import keras
import numpy as np
import pytest

import keras_kd as kd

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark(load_script):
    return load_script("benchmarks/cifar10_students.py")


def files(bytes_, test):
    row = {"bytes": bytes_, "held_out": test + 1.0, "test": test}
    return {"float32": row, "int8": row, "int4": row, "seconds": 1}


def test_table_has_a_row_for_each_form_with_the_spread_of_the_seeds(benchmark):
    results = {
        "alone_8-8_0": files(98, 88.0),
        "taught_8-8_0": files(100, 89.0),
        "taught_8-8_1": files(102, 90.0),
        "taught_4-4_0": files(50, 80.0),
    }
    rows = benchmark.table_of(results).splitlines()
    assert len(rows) == 12
    assert rows[2] == "| ResNet8 | as published | int8 | 98,496 |  | 86.97 | 1 |"
    assert rows[5] == "| 8-8 | taught | int4 | 102 | 90.50 ± 0.71 | 89.50 ± 0.71 | 2 |"
    assert rows[8] == "| 8-8 | alone | int4 | 98 | 89.00 | 88.00 | 1 |"
    assert rows[11] == "| 4-4 | taught | int4 | 50 | 81.00 | 80.00 | 1 |"


def test_augmentation_shifts_and_mirrors_whole_batches_of_bytes(benchmark):
    keras.utils.set_random_seed(0)  # of 128 images, one kind in a hundred times is missing
    images = np.zeros((256, 32, 32, 3), "uint8")
    images[:, 4:28, 4:28] = np.arange(24, dtype="uint8")[:, None]
    batch, labels = next(iter(benchmark.augmented(images, np.arange(256), 128)))
    assert batch.shape == (128, 32, 32, 3) and batch.dtype == "uint8"
    assert len(np.unique(labels)) == 128
    inner = batch.numpy()[:, 8:24, 8:24]
    assert len({image.tobytes() for image in inner}) == 2 * 9  # mirrored, and shifted across
    assert {int(image.max()) for image in inner} <= set(range(15, 24))


def test_an_erased_square_is_gray_and_whole(benchmark):
    images = np.full((64, 32, 32, 3), 200, "uint8")
    batch, _ = next(iter(benchmark.augmented(images, np.arange(64), 64, erased=8)))
    gray = (batch.numpy() == 120).all(-1)
    assert (gray.sum((1, 2)) == 64).all()
    rows, columns = gray.any(2).sum(1), gray.any(1).sum(1)
    assert (rows == 8).all() and (columns == 8).all() and len(np.unique(gray, axis=0)) > 30


def test_the_first_layer_of_the_teacher_whitens_patches(load_script):
    script = load_script("benchmarks/cifar10_teacher.py")
    images = np.random.default_rng(0).normal(size=(200, 12, 12, 3)).cumsum(1)
    kernel = script.whitening(images)
    assert kernel.shape == (2, 2, 3, 24)
    patches = np.lib.stride_tricks.sliding_window_view(images, (2, 2), axis=(1, 2))
    patches = patches.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 12)
    answers = patches @ kernel.reshape(12, 24)[:, :12]
    np.testing.assert_allclose(np.cov(answers, rowvar=False), np.eye(12), atol=0.05)


def test_steps_of_kernels_are_orthogonal_whatever_the_gradient(load_script):
    script = load_script("benchmarks/cifar10_teacher.py")
    generator = np.random.default_rng(0)
    start = generator.normal(size=(3, 3, 8, 16)).astype("float32")
    kernel, bias = keras.Variable(start), keras.Variable(np.ones(16, "float32"))
    optimizer = script.Muon(0.1, momentum=0.5, nesterov=True)
    gradient = generator.normal(size=start.shape).astype("float32")
    optimizer.apply([gradient, np.ones(16, "float32")], [kernel, bias])
    np.testing.assert_allclose(bias.numpy(), 1 - 0.1 * 1.5, rtol=1e-6)  # Nesterov's first step
    scaled = start * (16**0.5 / np.linalg.norm(start))
    step = ((scaled - kernel.numpy()) / 0.1).reshape(-1, 16)
    left, _, right = np.linalg.svd(gradient.reshape(-1, 16), full_matrices=False)
    values = np.linalg.svd(step, compute_uv=False)
    assert values.min() > 0.6 and values.max() < 1.3
    assert np.sum(step * (left @ right)) / 16 > 0.8  # of at most about 1: the same directions


def test_student_takes_bytes_and_ends_in_logits(benchmark):
    images = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), "uint8")
    student = benchmark.student_of(images, (8, 16, 12), depth=2)
    logits = student.predict(images, verbose=0)
    assert logits.shape == (64, 10) and logits.min() < 0
    scale = keras.Model(student.input, student.get_layer("scale").output)
    scaled = scale.predict(images, verbose=0)
    np.testing.assert_allclose(scaled.mean((0, 1, 2)), 0.0, atol=1e-4)
    np.testing.assert_allclose(scaled.std((0, 1, 2)), 1.0, atol=1e-4)
    kernels = [w.shape[-1] for w in student.trainable_weights if len(w.shape) == 4]
    assert kernels == [8] * 3 + [16] * 3 + [12] * 3  # the first layer is not trained


def test_the_page_quotes_the_kept_results(benchmark):
    students, teacher = (
        json.loads((ROOT / f"exports/reference/cifar10_{name}.json").read_text())
        for name in ("students", "teacher")
    )
    page = (ROOT / "docs/measured/cifar10.md").read_text()
    assert benchmark.table_of(students) in page
    for text in (f"{teacher['parameters']:,} parameters", f"for {teacher['epochs']} epochs"):
        assert text in page
    words = " ".join(page.split())
    assert (
        f"{teacher['held_out']} % of the held-out images right and {teacher['test']} % of the test "
        "images; together with its answers to the mirrored images "
        f"{teacher['held_out_mirrored_too']} % and {teacher['test_mirrored_too']} %"
    ) in words
    int4 = benchmark.files_of(students, "taught")
    assert f"{98_496 - max(file['bytes'] for file in int4):,} bytes smaller" in page
    more = statistics.mean(file["test"] for file in int4) - 86.97
    assert f"{more:.2f} percentage points more" in page
    alone = benchmark.files_of(students, "alone")
    gain = statistics.mean(f["test"] for f in int4) - statistics.mean(f["test"] for f in alone)
    assert f"worth {gain:.2f} percentage points** in the 4-bit file, {len(alone)} seeds" in page
    (small,) = benchmark.files_of(students, "taught", "16-32-40")
    assert small["test"] >= 85.0 and f"has {small['bytes']:,} bytes" in page


def test_the_kept_teacher_has_its_accuracy_on_a_part_of_the_test_images(load_script):
    data = pathlib.Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    if not (data / "cifar10").is_dir():
        pytest.skip("'cifar10' is not in TFDS_DATA_DIR")
    images, labels = load_script("benchmarks/cifar10_teacher.py").load("test", "float32")
    kept = json.loads((ROOT / "exports/reference/cifar10_teacher.json").read_text())
    teacher = kd.teachers.load(ROOT / "exports/reference/cifar10_teacher.tflite")
    right = np.mean(np.argmax(teacher(images[:500]), -1) == labels[:500])
    assert abs(100 * right - kept["test"]) < 3.0
