"""The peak memory of building and reading a cache, of some data and of ten times as many."""

import json
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile

from side_by_side import ROUNDS, emit

BATCHES, BATCH = 100, 64


def build_and_read(folder, factor):
    """In a process of its own: draw images that are never all in memory, cache, read twice."""
    import tensorflow as tf
    from networks import convolutional

    import keras_kd as kd

    def image(i):
        seed = tf.stack([i, tf.zeros_like(i)])
        return tf.random.stateless_normal((28, 28, 1), seed), tf.math.floormod(i, 1000)

    train = tf.data.Dataset.range(BATCHES * BATCH * factor).map(image).batch(BATCH)
    taught = kd.teachers.cache(convolutional(8, "teacher", classes=1000), train, folder, verbose=0)
    for _ in range(2):
        for batch in taught:
            del batch
    print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def peak(factor):
    """The peak memory of `build_and_read` in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, __file__, str(pathlib.Path(folder, "cache")), str(factor)],
            capture_output=True,
            text=True,
            check=True,
        )
    return int(done.stdout.splitlines()[-1]) / 1024


def main():
    pairs = [(peak(10), peak(1)) for _ in range(min(ROUNDS, 5))]
    ratios = sorted(ten / one for ten, one in pairs)
    emit(
        {
            "measure": "peak memory, cache of 10x the data",
            "against": "the same at 1x",
            "ratio": round(statistics.median(ratios), 3),
            "lowest": round(ratios[0], 3),
            "highest": round(ratios[-1], 3),
            "bound": 1.1,
            "rounds": len(pairs),
            "mebibytes": [round(statistics.median(side)) for side in zip(*pairs, strict=True)],
        }
    )


if __name__ == "__main__":
    if len(sys.argv) == 3:
        build_and_read(sys.argv[1], int(sys.argv[2]))
    else:
        main()
