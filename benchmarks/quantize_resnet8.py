"""MLPerf Tiny's ResNet8 on CIFAR-10 in 8 and in 4 bits, without training and taught by itself.

    python benchmarks/quantize_resnet8.py --models FOLDER

`FOLDER` holds `pretrainedResnet.h5` as published by mlcommons/tiny; CIFAR-10 is read through TFDS.
Without training (`epochs=0`) the ranges are calibrated on 640 training images, in each way. With
training the float network teaches its quantized self, on the first 45,000 training images. The last
5,000 are held out: what is chosen, is chosen on them. Every file is measured on all 10,000 test
images. Each row is kept in `--out` as soon as it is done; the same command resumes. Prints a
Markdown table.
"""

import argparse
import os
import pathlib
import time
import warnings

import keras
from cifar10_teacher import load
from kept_results import check_settings, once, write_results

import keras_kd as kd

HELD_OUT = 5_000
REFERENCE = {"file": "published, int8", "bytes": 98_496, "test": 86.97}


def accuracy(path, data):
    """Return the accuracy of a file in percent."""
    result = kd.evaluate_tflite(path, data, runs=1, warmup=0, verbose=False)
    return round(100 * result.accuracy, 2)


def table_of(results):
    """Return the rows as a Markdown table, the published file first."""
    header = "| file | bytes | held out, % | test, % |\n|---|---|---|---|\n"
    return header + "\n".join(
        f"| {row['file']} | {row['bytes']:,} | {row.get('held_out', '')} | {row['test']:.2f} |"
        for row in [REFERENCE, *results]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=os.environ.get("KERAS_KD_MLPERF_TINY"))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("exports/resnet8"))
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--examples", type=int, default=45_000)
    parser.add_argument("--only", nargs="*", help="rows to measure")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    check_settings(chosen.out, {"epochs": chosen.epochs, "examples": chosen.examples})
    warnings.filterwarnings("ignore", module="keras")
    images, labels = load("train", "float32")
    test, held_out = load("test", "float32"), (images[-HELD_OUT:], labels[-HELD_OUT:])
    train = images[: chosen.examples], labels[: chosen.examples]

    def measured(name, quantization, **arguments):
        def make():
            keras.utils.set_random_seed(0)
            teacher = kd.teachers.load(pathlib.Path(chosen.models) / "pretrainedResnet.h5")
            student = keras.models.clone_model(teacher)
            student.set_weights(teacher.get_weights())
            distiller = kd.Distiller(
                teacher, student, kd.losses.KLDivergence(1.0, from_logits=False), None, 0.0
            )
            distiller.compile("adam", metrics=["accuracy"])
            epochs = arguments["epochs"]
            steps = -(-len(train[0]) // 64)
            rate = keras.optimizers.schedules.CosineDecay(1e-3, max(1, epochs * steps))
            start = time.time()
            stage = kd.QuantizeAware(**arguments, learning_rate=rate if epochs else None)
            data = train if epochs else (train[0][:640], train[1][:640])
            compressed = kd.compress(distiller, data, stages=[stage], verbose=2)
            path = chosen.out / f"{name.replace(' ', '_').replace(',', '')}.tflite"
            kd.export_tflite(compressed, path, quantization, verbose=False)
            return {
                "file": name,
                "bytes": path.stat().st_size,
                "held_out": accuracy(path, held_out),
                "test": accuracy(path, test),
                "seconds": round(time.time() - start),
            }

        return once(chosen.out / f"{name}.json", make)

    rows = {
        f"int8, {ranges}": ("int8", {"epochs": 0, "ranges": ranges})
        for ranges in ("minmax", "percentile", "mse")
    }
    rows["int4"] = ("int4", {"epochs": 0, "ranges": "mse", "weight_bits": 4})
    rows["int4, taught"] = ("int4", {"epochs": chosen.epochs, "ranges": "mse", "weight_bits": 4})
    results = [
        measured(name, quantization, **arguments)
        for name, (quantization, arguments) in rows.items()
        if not chosen.only or name in chosen.only
    ]
    table = table_of(results)
    print(table)
    write_results(chosen.out, table, results)


if __name__ == "__main__":
    main()
