"""Peak memory does not grow with the data."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import keras, numpy as np, tensorflow as tf
import keras_kd as kd

batches, path = int(sys.argv[1]), sys.argv[2]


def image(i):
    return tf.random.stateless_uniform((64, 32, 32, 3), [i, 0]), tf.zeros((64,), tf.int64)


data = tf.data.Dataset.range(batches).map(image)
keras.utils.set_random_seed(0)
inputs = keras.Input((32, 32, 3))
x = keras.layers.Conv2D(16, 3, padding="same", name="map")(inputs)
outputs = keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x))
teacher = keras.Model(inputs, outputs)
taught = kd.teachers.cache(
    teacher, data, path, layers=["map"], shard_megabytes=16, verbose=False
)
for _ in taught:
    pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(batches, folder):
    command = [sys.executable, "-c", SCRIPT, str(batches), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


@pytest.mark.slow
def test_peak_memory_of_building_and_reading_at_ten_times_the_data(tmp_path):
    # Features of 4 MB a batch: 84 MB and 839 MB in all.
    small, large = peak(20, tmp_path / "1"), peak(200, tmp_path / "10")
    assert large <= 1.1 * small
    assert sum(path.stat().st_size for path in (tmp_path / "10").iterdir()) > 8e8
    # Opened, and read alone.
    assert peak(200, tmp_path / "10") <= 1.1 * peak(20, tmp_path / "1")
