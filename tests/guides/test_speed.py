"""The guide to speed: its code runs, and the tables are those of the kept run."""

import json
import pathlib
import re

import keras
import numpy as np
import tensorflow as tf

import keras_kd as kd

ROOT = pathlib.Path(__file__).parents[2]


def test_code(run_guide):
    images = np.random.default_rng(0).normal(size=(8, 8, 8, 1)).astype("float32")
    teacher = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()]
    )
    train = tf.data.Dataset.from_tensor_slices((images, np.zeros(8))).batch(4)
    names = run_guide("speed.md", kd=kd, teacher=teacher, train=train)
    expected = teacher(images).numpy()
    difference = np.abs(tf.cast(names["teacher"](images), "float32").numpy() - expected).max()
    assert difference <= 0.02 * np.abs(expected).max()


def test_tables(load_script):
    benchmarks = load_script("benchmarks/run.py")
    rows = json.loads((ROOT / "exports/reference/benchmarks.json").read_text())["rows"]
    page = (ROOT / "docs/measured/speed.md").read_text()
    assert benchmarks.table(rows) in page
    assert benchmarks.table_without_bounds(rows) in page
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("bench_*.py")}
    assert {row["script"] for row in rows} == scripts


def test_the_short_table_is_part_of_the_long_ones():
    rows = json.loads((ROOT / "exports/reference/benchmarks.json").read_text())["rows"]
    kept = {row["measure"]: f"{row['ratio']:.2f}" for row in rows}
    short = re.findall(
        r"^\| (step, .*) \| (\S+) \|$", (ROOT / "docs/guides/speed.md").read_text(), re.M
    )
    assert len(short) == 7 and {measure: kept[measure] for measure, _ in short} == dict(short)
