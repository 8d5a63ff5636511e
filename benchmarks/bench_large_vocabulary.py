"""Memory and time of a KL of many classes and its gradient: whole, in chunks, and of top-k logits.

Each measurement is a process of its own (Linux). Memory is the peak during the steps above what
the process held before them, which includes the logits of teacher and student.
"""

import argparse
import ctypes
import json
import subprocess
import sys
import time

from side_by_side import emit

CLASSES = (10, 100, 1_000, 10_000, 50_000, 250_000)
# A chunk of 4 MB of float32 logits.
CHUNK_ELEMENTS = 2**20
TOP_K = 64


def in_use(key):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(key)) / 1024


def measure(mode, positions, classes):
    """Print the extra memory in MB, and the seconds and processor seconds of a step."""
    import numpy as np
    import tensorflow as tf

    import keras_kd as kd

    chunk_size = max(1, CHUNK_ELEMENTS // classes) if mode == "chunks" else None
    loss = kd.losses.KLDivergence(4.0, chunk_size=chunk_size)
    random = np.random.default_rng(0)
    teacher, student = (
        tf.constant(random.standard_normal((positions, classes), "float32")) for _ in range(2)
    )
    if mode == "top_k":
        k = min(TOP_K, classes)
        teacher = kd.losses.top_k_logits(teacher, k, 4.0)

    @tf.function(autograph=False)
    def step(teacher, student):
        with tf.GradientTape() as tape:
            tape.watch(student)
            value = loss(teacher, student)
        return value, tape.gradient(value, student)

    step.get_concrete_function(teacher, student)
    ctypes.CDLL(None).malloc_trim(0)  # what is free is given back, and not counted as held
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")  # the peak begins anew
    before, seconds, processor = in_use("VmRSS"), [], []
    for _ in range(4):
        start, used = time.perf_counter(), time.process_time()
        value, gradient = step(teacher, student)
        value.numpy()
        seconds.append(time.perf_counter() - start)
        processor.append(time.process_time() - used)
        del gradient
    print(
        json.dumps(
            {
                "memory_mb": round(in_use("VmHWM") - before, 1),
                "seconds": round(min(seconds), 4),
                "processor_seconds": round(min(processor), 4),
                "loss": float(value),
            }
        )
    )


def measured(mode, positions, classes):
    """Return what `measure` prints in a process of its own."""
    command = [sys.executable, __file__, "--measure", mode, str(positions), str(classes)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise RuntimeError(process.stderr[-2000:])
    return json.loads(process.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--positions", type=int, default=128, help="tokens in a batch")
    parser.add_argument("--classes", type=int, nargs="+", default=CLASSES)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        mode, positions, classes = arguments.measure
        measure(mode, int(positions), int(classes))
        return
    for classes in arguments.classes:
        row = {
            "positions": arguments.positions,
            "classes": classes,
            "logits_mb": round(arguments.positions * classes * 4 / 2**20, 1),
        }
        for mode in ("whole", "chunks", "top_k"):
            row[mode] = measured(mode, arguments.positions, classes)
        print(
            f"{classes:>7} classes, logits {row['logits_mb']:.1f} MB: "
            + ", ".join(
                f"{mode} {row[mode]['memory_mb']:.0f} MB {row[mode]['seconds']:.3f} s"
                for mode in ("whole", "chunks", "top_k")
            ),
            flush=True,
        )
        for mode in ("chunks", "top_k"):
            compared = [row[side]["memory_mb"] for side in (mode, "whole")]
            emit(
                {
                    "measure": f"memory of KL, {classes:,} classes, {mode.replace('_', '-')}",
                    "against": "all logits at once",
                    "ratio": round(compared[0] / max(compared[1], 0.1), 3),
                    "bound": None,
                    "megabytes": compared,
                }
            )


if __name__ == "__main__":
    main()
