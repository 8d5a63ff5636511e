"""Whatever is killed, at whatever moment, ends as it would have if the same is run again.

Run as a script, this file kills one kind of work: it is imported once and forked for every process,
which counts the files that are opened, moved and removed in its folder, and kills itself at one of
those moments, or some time after it.
"""

import contextlib
import io
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_kd as kd
from keras_kd.cli import main
from keras_kd.models.tfmot import import_tfmot
from keras_kd.report import make_result, model_card, model_result, write_report

_MOMENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}


def images(count=48):
    generator = np.random.default_rng(0)
    labels = np.arange(count) % 3
    x = generator.integers(0, 90, (count, 8, 8, 1))
    for i, label in enumerate(labels):
        x[i, 3 * label : 3 * label + 2] += 150
    return x.astype("uint8"), labels


def floats():
    x, y = images()
    return (x / 255.0).astype("float32"), y


def network(channels, name):
    inputs = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(channels, 3, use_bias=False, name="conv")(inputs)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(x))
    x = layers.Dropout(0.3, name="drop")(layers.Flatten(name="flat")(x))
    return keras.Model(inputs, layers.Dense(3, name="answer")(x), name=name)


def distiller():
    keras.utils.set_random_seed(0)
    teacher, student = network(6, "teacher"), network(4, "student")
    losses = [kd.losses.KLDivergence(), kd.Hint("relu", "relu")]
    model = kd.Distiller(teacher, student, losses, None, 0.5)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss=loss, metrics=["accuracy"])
    return model


def as_bytes(folder):
    return {
        path.relative_to(folder).as_posix(): np.frombuffer(path.read_bytes(), "uint8")
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name[0] != "."
    }


def weights(model):
    return {f"{i} {w.path}": np.asarray(w) for i, w in enumerate(model.weights)}


def fit(folder):
    model = distiller()
    data = tf.data.Dataset.from_tensor_slices(floats()).batch(8)
    callbacks = [
        kd.Prune(0.5, frequency=2).as_callback(),
        kd.BackupAndRestore(folder / "backup", save_freq=4),
    ]
    model.fit(data, epochs=3, validation_data=data.take(2), callbacks=callbacks, verbose=0)
    return weights(model)


def distill(folder):
    materials = folder.parent / "materials"
    if not materials.exists():
        with_labels = dict(zip("xy", images(), strict=True))
        (folder.parent / "being_made").mkdir()
        np.savez(folder.parent / "being_made" / "train.npz", **with_labels)
        distiller().teacher.save(folder.parent / "being_made" / "big.keras")
        (folder.parent / "being_made").rename(materials)
    words = f"distill --teacher {materials}/big.keras --student shrink:0.5 --epochs 3 --scale 255"
    words += f" --data {materials}/train.npz --batch-size 16 --out {folder}/run --cache-teacher"
    if main([*words.split(), "--quiet"]) != 0:
        raise RuntimeError(words)
    history = json.loads((folder / "run/result.json").read_text())["result"]["history"]
    student = keras.models.load_model(folder / "run/student.keras", compile=False)
    return weights(student) | {key: np.array(values) for key, values in history.items()}


def cache(folder):
    keras.utils.set_random_seed(0)
    teacher = network(6, "teacher")
    data = tf.data.Dataset.from_tensor_slices(floats()).batch(4)
    kd.teachers.cache(
        teacher, data, folder / "cache", batch_size=4, shard_megabytes=0.001, verbose=False
    )
    return as_bytes(folder)


def compress(folder):
    stages = [
        kd.Prune(0.5, epochs=2, learning_rate=0.01),
        kd.Cluster(8, epochs=2, learning_rate=0.01),
        kd.QuantizeAware(epochs=2, learning_rate=0.01),
    ]
    made = kd.compress(
        distiller(), floats(), floats(), stages=stages, path=folder / "run", verbose=0
    )
    histories = {
        f"{stage} {key}": np.array(values)
        for stage, history in made.history.items()
        for key, values in history.items()
    }
    kept = json.loads((folder / "run/run.json").read_text())
    assert len(kept["stages"]) == 3
    # No backups are left, and no files that were only begun.
    names = [file.name for file in (folder / "run").iterdir()]
    assert not [name for name in names if ".attempt_" in name or name[0] == "."], names
    notes = json.dumps([stage["state"]["notes"] for stage in kept["stages"]])
    return {
        **weights(made.model),
        **histories,
        "outputs": made.predict(floats()[0]),
        "notes": np.frombuffer(notes.encode(), "uint8"),
    }


def search(folder):
    keras.utils.set_random_seed(0)
    found = kd.search(
        network(6, "teacher"), floats(), floats(), widths=(0.4,), depths=(1.0,), trials=2,
        teachings={"taught": {}}, stages={"none": [], "8 bits": [kd.QuantizeAware(1)]},
        formats=("float16",), epochs=3, engine="grid", verbose=False, path=folder / "run",
    )  # fmt: skip
    files = {
        f"{file.folder.name} file": np.frombuffer(file.file.read_bytes(), "uint8")
        for file in found.front
    }
    metrics = {file.folder.name: np.array([file.metric, file.bytes]) for file in found.tried}
    return files | metrics


def export(folder, channels=4):
    keras.utils.set_random_seed(0)
    model = network(channels, "student")
    kd.export_tflite(
        model, folder / "student.tflite", "int8", representative_data=floats()[0], verbose=False
    )
    return as_bytes(folder)


def report(folder, loss=1.0):
    keras.utils.set_random_seed(0)
    row = model_result("student", "Student", network(4, "student"), accuracy=0.9,
                       history={"loss": [2.0, loss]})  # fmt: skip
    result = make_result("A report", [row]) | {"created": "2026-01-01T00:00:00+00:00"}
    write_report(result, folder)
    model_card(result, folder / "model_card.md", overwrite=True)
    return as_bytes(folder)


# What is killed, how often, and what made the files that stand there before.
WORK = {
    "fit": (fit, 10, None),
    "distill": (distill, 9, None),
    "cache": (cache, 8, None),
    "compress": (compress, 11, None),
    "search": (search, 10, None),
    "export": (export, 6, lambda folder: export(folder, channels=3)),
    "report": (report, 6, lambda folder: report(folder, loss=1.5)),
}


def kill_at(folder, moment, seconds):
    """Kill this process some time after so many moments; return their number, if it lives on."""
    seen = [0]

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def watch(event, arguments):
        if event not in _MOMENTS or not isinstance(arguments[0], (str, bytes, os.PathLike)):
            return
        if not os.fsdecode(arguments[0]).startswith(str(folder)):
            return
        seen[0] += 1
        if seen[0] != moment:
            return
        if not seconds:
            die()
        timer = threading.Timer(seconds, die)
        timer.daemon = True
        timer.start()

    sys.addaudithook(watch)
    return seen


def in_a_process(work, folder, result=None, moment=0, seconds=0.0):
    """Run in a fork of this process, which has run nothing of TensorFlow; return whether it died.

    Args:
        work: The work.
        folder: Where it is done.
        result: The file for what it came to, whose name without suffix gets the moments seen.
        moment: The moment at which it is killed; 0 for none.
        seconds: How long after the moment.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            seen = kill_at(folder, moment, seconds)
            with contextlib.redirect_stdout(io.StringIO()):
                made = work(folder)
            if result is not None:
                result.with_suffix(".moments").write_text(str(seen[0]))
                with open(result, "wb") as file:
                    np.savez(file, **made)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, -signal.SIGKILL):
        raise RuntimeError(f"{work} ended with {status} in {folder} (moment {moment}, {seconds} s)")
    return status != 0


def kill_everywhere(name, top):
    """Do one kind of work undisturbed, and with deaths until there were enough; write a record."""
    work, deaths, before = WORK[name]
    draw = random.Random(name)
    import_tfmot()
    for heavy in (
        "search",
        "Distiller",
        "compress",
        "export_tflite",
        "Prune",
        "Cluster",
        "QuantizeAware",
    ):
        getattr(kd, heavy)
    (top / "whole").mkdir()
    start = time.perf_counter()
    in_a_process(work, top / "whole", top / "whole.npz")
    lasted = time.perf_counter() - start
    if before is not None:
        (top / "old").mkdir()
        in_a_process(before, top / "old", top / "old.npz")
    moments = int((top / "whole.moments").read_text())
    record = []
    while sum(len(trial) for trial in record) < deaths and len(record) < 3 * deaths:
        folder = top / f"killed_{len(record)}"
        if before is None:
            folder.mkdir()
        else:
            shutil.copytree(top / "old", folder)
        died = []
        for tries in range(draw.choice((1, 1, 2))):
            moment = draw.randint(1, moments // (1 + tries))
            seconds = draw.choice((0.0, 0.0, draw.uniform(0.0, lasted / 3)))
            if not in_a_process(work, folder, None, moment, seconds):
                break
            died.append((moment, seconds))
            if before is not None:
                known = [np.load(top / f"{which}.npz") for which in ("whole", "old")]
                for file, content in as_bytes(folder).items():
                    assert any(np.array_equal(content, files[file]) for files in known), file
        in_a_process(work, folder, top / f"killed_{len(record)}.npz")
        record.append(died)
    (top / "record.json").write_text(json.dumps({"moments": moments, "trials": record}))


@pytest.mark.promise
@pytest.mark.parametrize("name", WORK)
def test_what_is_killed_ends_as_what_was_not(tmp_path, name):
    done = subprocess.run(
        [sys.executable, __file__, name, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((tmp_path / "record.json").read_text())
    print(name, record)
    assert sum(len(trial) for trial in record["trials"]) >= WORK[name][1]
    with np.load(tmp_path / "whole.npz") as whole:
        for i, trial in enumerate(record["trials"]):
            with np.load(tmp_path / f"killed_{i}.npz") as killed:
                assert killed.files == whole.files, trial
                for key in whole.files:
                    message = f"{key} after deaths at {trial}"
                    if whole[key].dtype == np.uint8:
                        np.testing.assert_array_equal(killed[key], whole[key], message)
                    else:
                        np.testing.assert_allclose(
                            killed[key], whole[key], rtol=1e-5, atol=1e-6, err_msg=message
                        )


if __name__ == "__main__":
    kill_everywhere(sys.argv[1], pathlib.Path(sys.argv[2]))
