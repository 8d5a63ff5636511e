"""Put students into `zoo/`, and write the zoo's table.

    python tools/zoo.py add NAME    put the files that its recipe made into the zoo
    python tools/zoo.py table       measure all of them and write docs/zoo.md

A recipe has left its files. Where the test data cannot be loaded otherwise, it is an example and is
run again for them.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import runpy
import shutil
import statistics
import sys
import tempfile
import zipfile
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import keras_kd as kd
from keras_kd.report.derive import wilson
from keras_kd.system.files import sha256
from keras_kd.system.text_table import markdown_table, with_measured

ROOT = pathlib.Path(__file__).parents[1]
ZOO, INDEX = ROOT / "zoo", ROOT / "keras_kd" / "zoo" / "index.json"
KEPT = ROOT / "exports" / "reference" / "zoo.json"
PAGE = ROOT / "docs" / "zoo.md"
SAMPLES = 100


@dataclasses.dataclass
class Recipe:
    """How a student of the zoo is made.

    Attributes:
        task: What it does, and on which data.
        inputs: What the file takes, with the range of the numbers.
        command: The command that makes it.
        file: The TFLite file that the command writes.
        student: The Keras student that it writes.
        test: Returns inputs and labels of all test samples. It is given what the script defines if
            `runs`, else nothing.
        metrics: Returns the Keras metrics of the file. Defaults to none, which is accuracy.
        runs: Whether `command` is run again for the test data. Defaults to `False`.
    """

    task: str
    inputs: str
    command: str
    file: str
    student: str
    test: Callable[[dict[str, Any]], tuple[Any, Any]]
    metrics: Callable[[], list[Any]] = list
    runs: bool = False


def of_split(name, scale=1.0):
    """Return a function that returns the test images of a data set and their labels."""

    def load(_):
        data = kd.datasets.load(name, split="test", as_supervised=True, batch_size=-1)
        images, labels = (np.asarray(part) for part in data)
        return images.astype("float32") * np.float32(scale), labels

    return load


def scenes_test(_):
    """Return the test scenes and the class of each pixel."""
    data = kd.datasets.load("fashion_scenes", split="test", batch_size=-1)
    images, masks = (np.asarray(data[name]) for name in ("image", "segmentation_mask"))
    return images.astype("float32") / 255.0, masks


CLASSES = 11  # ten garments and the background


def mean_iou():
    """Return the metric of segmentation."""
    return [keras.metrics.MeanIoU(CLASSES, sparse_y_pred=False, name="mean_iou")]


def auc():
    """Return the metric of ranking."""
    return [keras.metrics.AUC(from_logits=True, name="auc")]


def speech_test(made):
    """Return the spectrograms of the speakers whom the last seed leaves out."""
    waves, labels, speakers = made["data"]
    seed = made["SEEDS"][-1]
    left_out = np.isin(speakers, made["SPEAKERS"][2 * seed : 2 * seed + 2])
    return made["spectrogram"]().predict(waves[left_out], verbose=0), labels[left_out]


def reviews_test(_):
    """Return the word pieces of the test reviews, as the student reads them."""
    sys.path.append(str(ROOT / "benchmarks"))
    from imdb_students import last_pieces

    with np.load(ROOT / "exports/imdb/tokens.npz") as kept:
        return last_pieces(kept["test"].astype("int32"), 192), kept["test_labels"]


def example(name, task, inputs, file, test, metrics=list):
    """Return the recipe of a file that an example writes."""
    path, command = f"exports/{name}/{file}", f"python examples/{name}.py"
    return Recipe(task, inputs, command, f"{path}.tflite", f"{path}.keras", test, metrics, True)


RECIPES = {
    "cifar10_98kb": Recipe(
        "images of ten kinds of things (CIFAR-10), 32x32, color",
        "float32 images, 32x32x3, from 0 to 255 (airplane, automobile, bird, cat, deer, dog, frog, "
        "horse, ship, truck)",
        "python benchmarks/cifar10_students.py "
        "--teacher exports/reference/cifar10_teacher.tflite --students 32-64-78 --kinds taught",
        "exports/cifar10/taught_32-64-78_0_int4.tflite",
        "exports/cifar10/taught_32-64-78_0_4_bits/stage_1_quantize_aware.keras",
        of_split("cifar10"),
    ),
    "digits_5kb": Recipe(
        "handwritten digits, 8x8, learned from 60 labels",
        "float32 images, 8x8x1, from 0 to 1",
        "make demo",
        "exports/digits/seed0/int8.tflite",
        "exports/digits/seed0/compressed/stage_1_quantize_aware.keras",
        of_split("digits", 1 / 255),
    ),
    "fashion_scenes": Recipe(
        "the garment at every pixel of a scene (fashion_scenes), 64x64, gray",
        "float32 images, 64x64x1, from 0 to 1",
        "python examples/image_segmentation.py",
        "exports/image_segmentation/distilled_quantization-aware_int8.tflite",
        "exports/image_segmentation/distilled_quantization-aware_int8.keras",
        scenes_test,
        mean_iou,
    ),
    "imdb_reviews": Recipe(
        "film reviews, against or for (IMDB)",
        "int32 numbers of the last 192 word pieces of a review (lowercase pieces of BERT, as "
        "all-MiniLM-L6-v2 reads them), 0 after the end",
        "python benchmarks/imdb_students.py "
        "--encoder hf://sentence-transformers/all-MiniLM-L6-v2 --kinds convolutions",
        "exports/imdb/convolutions_taught_0_int8.tflite",
        "exports/imdb/convolutions_taught_0.keras",
        reviews_test,
    ),
    "spoken_digit": example(
        "speech_commands",
        "spoken digits of speakers not heard in training, as spectrograms",
        "int8 log-mel spectrograms: those of the example in float32, quantized by the scale and "
        'zero point in `metadata["inputs"]`',
        "distilled_quantization-aware_int8",
        speech_test,
    ),
    "movielens": example(
        "ranking",
        "will this user like this film (MovieLens 100k)",
        "int32 numbers of user, film, occupation, decade of age and genre",
        "pruned_clustered_int8",
        lambda made: made["data"][1],
        auc,
    ),
}


def measured(path, data, metrics):
    """Return the name of the metric, its value and the number of samples."""
    result = kd.evaluate_tflite(path, data, metrics=metrics() or None, runs=1, verbose=False)
    if result.metrics:
        name, value = next(iter(result.metrics.items()))
        return name, value, result.samples
    return "accuracy", result.accuracy, result.samples


def pack(source, target):
    """Copy a `.keras` file, compressed, which Keras does not do: quantized weights repeat."""
    with zipfile.ZipFile(source) as given, zipfile.ZipFile(target, "w") as made:
        for name in given.namelist():  # without times, so that the same students are the same bytes
            made.writestr(zipfile.ZipInfo(name), given.read(name), zipfile.ZIP_DEFLATED, 9)


def first(data, count):
    """Return the first samples of inputs, which may be a dict, and labels."""
    inputs, labels = data
    if isinstance(inputs, dict):
        return {name: array[:count] for name, array in inputs.items()}, labels[:count]
    return inputs[:count], labels[:count]


def add(name):
    """Copy the files of a recipe, with what they were measured to do."""
    recipe = RECIPES[name]
    made = runpy.run_path(str(ROOT / recipe.command.split()[1])) if recipe.runs else {}
    data = recipe.test(made)
    folder = ZOO / name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "student.tflite"
    shutil.copy(ROOT / recipe.file, path)
    pack(ROOT / recipe.student, folder / "student.keras")
    metadata = json.loads((ROOT / f"{recipe.file}.json").read_text())
    metadata["file"] = path.name
    (folder / "student.tflite.json").write_text(json.dumps(metadata, indent=1) + "\n")
    metric, value, samples = measured(path, data, recipe.metrics)
    inputs, labels = first(data, SAMPLES)
    arrays = inputs if isinstance(inputs, dict) else {"inputs": inputs}
    np.savez_compressed(folder / "sample.npz", labels=labels, **arrays)
    index = json.loads(INDEX.read_text()) if INDEX.exists() else {}
    index[name] = {
        "task": recipe.task,
        "inputs": recipe.inputs,
        "metric": metric,
        "value": round(value, 6),
        "interval": wilson(value, samples) if metric == "accuracy" else None,
        "samples": samples,
        "sample_value": measured(path, (inputs, labels), recipe.metrics)[1],
        "recipe": recipe.command,
    }
    (folder / "README.md").write_text(card(name, index[name], path))
    index[name]["files"] = {file.name: sha256(file) for file in sorted(folder.iterdir())}
    INDEX.write_text(json.dumps(dict(sorted(index.items())), indent=1) + "\n")


def percent(entry):
    """Return the value of an entry, with its interval, as text."""
    if entry["metric"] != "accuracy":
        return f"{entry['metric']} {entry['value']:.4f}"
    low, high = entry["interval"]
    return f"{entry['value']:.2%} ({100 * low:.2f} to {100 * high:.2f})"


def card(name, entry, path):
    """Return the model card of a student."""
    return f"""# {name}

- **Task:** {entry["task"]}.
- **Inputs:** {entry["inputs"]}.
- **File:** `student.tflite`, {path.stat().st_size:,} bytes. Shapes, types and class names are in
  `student.tflite.json`. `student.keras` is the Keras model that it was made of.
- **Measured:** {percent(entry)} on {entry["samples"]:,} test samples, by the file itself; on the
  first {SAMPLES} of them, which are in `sample.npz`, {entry["metric"]} {entry["sample_value"]:.4f}.
- **Recipe:** `{entry["recipe"]}`
- **Meant for:** trying a file on a device, comparing tools, and as a student to start from. It
  knows what its data set holds and nothing else, and was not tested on other data.
- **License:** that of this repository. The data has the terms of its authors.
"""


def on_microcontroller(path, plain, folder):
    """Return a file's arena and latency in the interpreter for microcontrollers.

    The latency is a ratio to that of `plain`: the median of several runs, one file after the other.
    Where a file cannot run, its figures are `None`.
    """

    def ran(file):
        try:
            return kd.export_c_array(file, folder / f"micro_{file.stem}")
        except ValueError:
            return None

    pairs = [(ran(path), ran(plain))]
    if all(pairs[0]):
        pairs += [(ran(path), ran(plain)) for _ in range(8)]
    ratios = [ours.latency_ms / theirs.latency_ms for ours, theirs in pairs if ours and theirs]
    return {
        "arena_bytes": pairs[0][0] and pairs[0][0].arena_size,
        "micro_latency_ratio": statistics.median(ratios) if ratios else None,
    }


def cycles(path):
    """Return the cycles on an Ethos-U55 and its share of operators, or `None`."""
    try:
        cost = kd.device_cost(path, "ethos-u55-128")
    except ValueError:
        return None
    return {"cycles": cost.cycles, "npu": cost.npu_operators, "operators": cost.operators}


def measure(name, folder):
    """Return what the zoo's table says of one student."""
    student = kd.zoo.load(name)
    plain = folder / f"{name}_float32.tflite"
    kd.export_tflite(student.student, plain, verbose=False)
    times = kd.benchmark_tflite_files([student.path, plain], rounds=200)
    entry = {field: getattr(student, field) for field in ("metric", "value", "interval", "samples")}
    return entry | {
        "task": student.task,
        "bytes": student.path.stat().st_size,
        "float32_bytes": plain.stat().st_size,
        "latency_ratio": times[str(student.path)].latency_ms / times[str(plain)].latency_ms,
        **on_microcontroller(student.path, plain, folder),
        "ethos_u55": cycles(student.path),
    }


def table(results):
    """Return the Markdown table of the zoo."""
    head = ("name", "bytes", "metric", "latency", "micro latency", "arena, bytes", "Ethos-U55")
    rows = [head]
    for name, found in results.items():
        npu = found["ethos_u55"]
        rows.append(
            (
                f"`{name}`",
                f"{found['bytes']:,}",
                percent(found),
                f"{found['latency_ratio']:.2f}",
                "–" if (ratio := found["micro_latency_ratio"]) is None else f"{ratio:.2f}",
                "–" if found["arena_bytes"] is None else f"{found['arena_bytes']:,}",
                "–"
                if npu is None
                else f"{npu['cycles']:,} cycles, {npu['npu']} of {npu['operators']} operators",
            )
        )
    return markdown_table(rows)


def main():
    """Put one student into the zoo, or measure all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("add").add_argument("name", choices=RECIPES)
    commands.add_parser("table")
    chosen = parser.parse_args()
    os.chdir(ROOT)
    if chosen.command == "add":
        add(chosen.name)
        return
    with tempfile.TemporaryDirectory() as folder:
        results = {name: measure(name, pathlib.Path(folder)) for name in kd.zoo.names()}
    KEPT.write_text(json.dumps(results, indent=1) + "\n")
    PAGE.write_text(with_measured(PAGE.read_text(), lambda _: table(results)))
    print(table(results))


if __name__ == "__main__":
    main()
