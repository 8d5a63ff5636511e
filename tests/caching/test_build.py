import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.system.folder_lock import held_folder

SETUP = """
import time
import keras, numpy as np, tensorflow as tf
import keras_kd as kd

keras.utils.set_random_seed(5)
teacher = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])


def batches(seconds=0.0, hangs_at=None):
    def generate():
        for i in range(20):
            time.sleep(600 if i == hangs_at else seconds)
            yield np.random.default_rng(i).normal(size=(4, 5)).astype("float32")

    return tf.data.Dataset.from_generator(
        generate, output_signature=tf.TensorSpec((None, 5), tf.float32)
    )
"""

BUILD = """
import sys
kd.teachers.cache(
    teacher, batches(hangs_at=14), sys.argv[1], batch_size=4, shard_megabytes=0.0005, verbose=False
)
"""


def setup():
    namespace = {}
    exec(SETUP, namespace)
    return namespace["teacher"], namespace["batches"]


def cache(*args, **kwargs):
    kwargs = {"batch_size": 4, "shard_megabytes": 0.0005, "verbose": False, **kwargs}
    return kd.teachers.cache(*args, **kwargs)


def files_of(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if not path.name.startswith(".")
    }


def count_samples(model):
    seen, call = [], model.call

    def counting(inputs, *args, **kwargs):
        tf.py_function(lambda n: seen.append(int(n)), [tf.shape(inputs)[0]], [])
        return call(inputs, *args, **kwargs)

    object.__setattr__(model, "call", counting)
    return seen


def shards_in(folder):
    try:
        return len(json.loads((folder / "manifest.json").read_text())["shards"])
    except FileNotFoundError:
        return 0


@pytest.mark.promise
def test_a_killed_build_goes_on_where_it_was(tmp_path):
    folder = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", SETUP + BUILD, str(folder)])
    deadline = time.time() + 240
    while shards_in(folder) < 3 and time.time() < deadline and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not json.loads((folder / "manifest.json").read_text())["complete"]
    kept = json.loads((folder / "manifest.json").read_text())["shards"]
    assert 3 <= len(kept) <= 7
    inode = (folder / kept[0]["file"]).stat().st_ino

    teacher, batches = setup()
    cache(teacher, batches(), tmp_path / "whole")
    seen = count_samples(teacher)
    taught = cache(teacher, batches(), folder)
    assert seen[0] == 4  # those that are compared
    assert sum(seen[1:]) == 80 - 4 * sum(shard["records"] for shard in kept)
    assert (folder / kept[0]["file"]).stat().st_ino == inode  # kept, not written again
    assert files_of(folder) == files_of(tmp_path / "whole")
    assert not list(folder.glob(".*.tfrecord"))
    assert len(list(taught)) == 20
    seen.clear()
    cache(teacher, batches(), folder)
    assert seen == [4]  # those that are compared


class Stop(Exception):
    pass


def interrupted(model, data, folder, after, **arguments):
    """Build until the teacher has seen `after` batches."""
    call, seen = model.call, []

    def stopping(inputs, *args, **kwargs):
        def count(x):
            seen.append(1)
            if len(seen) > after:
                raise Stop("stop")

        tf.py_function(count, [inputs], [])
        return call(inputs, *args, **kwargs)

    object.__setattr__(model, "call", stopping)
    with pytest.raises(tf.errors.OpError, match="stop"):
        cache(model, data, folder, batch_size=None, **arguments)
    object.__delattr__(model, "call")


def test_an_interrupted_build_of_other_data_is_not_gone_on_with(tmp_path):
    teacher, batches = setup()
    interrupted(teacher, batches(), tmp_path, after=9)
    assert shards_in(tmp_path) >= 1
    assert not list(tmp_path.glob(".*.tfrecord"))
    changed = batches().map(lambda x: x + 1.0)
    with pytest.raises(ValueError, match="the dataset does not give the inputs"):
        cache(teacher, changed, tmp_path)
    teacher.layers[0].bias.assign([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="the weights differ"):
        cache(teacher, batches(), tmp_path)


@pytest.mark.promise
def test_views_go_on_too(tmp_path):
    teacher, batches = setup()
    options = {"views": 2}

    def seeded():  # as a new process would make it
        keras.utils.set_random_seed(0)
        return batches().shuffle(20, seed=1)

    cache(teacher, seeded(), tmp_path / "whole", **options)
    interrupted(teacher, seeded(), tmp_path / "seeded", after=30, views=2)
    there = shards_in(tmp_path / "seeded")
    cache(teacher, seeded(), tmp_path / "seeded", **options)
    assert there >= 3 and files_of(tmp_path / "seeded") == files_of(tmp_path / "whole")
    # Drawn anew, the first view stays and the second is begun again: none lacks an example.
    interrupted(teacher, batches().shuffle(20), tmp_path / "random", after=30, views=2)
    seen = count_samples(teacher)
    taught = cache(teacher, batches().shuffle(20), tmp_path / "random", **options)
    assert sum(seen) == 80 + 4
    expected = np.sort(np.concatenate(list(batches())), axis=0)
    for _ in range(2):
        inputs = np.concatenate([given.inputs for given, *_ in taught])
        np.testing.assert_array_equal(np.sort(inputs, axis=0), expected)


def test_errors_of_writing_are_told(tmp_path, monkeypatch):
    teacher, batches = setup()

    def full(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr("keras_kd.caching.build.encode", full)
    with pytest.raises(OSError, match="No space left"):
        cache(teacher, batches(), tmp_path)
    monkeypatch.undo()
    assert len(list(cache(teacher, batches(), tmp_path))) == 20


def test_one_builds_while_the_other_waits(tmp_path, capfd):
    teacher, batches = setup()
    thread = threading.Thread(target=cache, args=(teacher, batches(), tmp_path))
    with held_folder(tmp_path):
        thread.start()
        printed = ""
        while "waiting for it" not in printed and thread.is_alive():
            time.sleep(0.01)
            printed += capfd.readouterr().out
        assert thread.is_alive() and not shards_in(tmp_path)
    thread.join()
    assert shards_in(tmp_path) >= 3
