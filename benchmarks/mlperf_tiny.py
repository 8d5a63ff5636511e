"""The models of MLPerf Tiny in every form, beside the benchmark's own files.

    python benchmarks/mlperf_tiny.py [--models FOLDER] [--only TITLE ...]

`FOLDER` holds the Keras models as published by mlcommons/tiny. The accuracy of ResNet8 is that on
all 10,000 test images of CIFAR-10, which is read through TFDS. For the others no labeled data is
at hand, and what counts is how a file agrees with the Keras model on random inputs. Of the DS-CNN
no Keras file is published: its weights are random, and its bytes alone compare. Each model is kept
in `--out` when it is done, and the same command resumes. Prints a Markdown table.
"""

import argparse
import os
import pathlib

from cifar10_teacher import load
from export_subjects import subjects
from export_truth import ALL
from export_variants import OURS, Subject, measure
from kept_results import once, percent, write_results

import keras_kd as kd
from keras_kd.litert.model_file import ModelFile

# The int8 files of the benchmark's training code, and the accuracy of the first.
PUBLISHED = {
    "MLPerf Tiny: ResNet8": ("pretrainedResnet_quant", 98_496, "86.97"),
    "MLPerf Tiny: MobileNetV1 0.25": ("vww_96_int8", 333_288, ""),
    "MLPerf Tiny: DS-CNN": ("kws_ref_model", 53_936, ""),
    "MLPerf Tiny: autoencoder": ("ad01_int8", 276_976, ""),
}


def scale_bytes(path):
    """Return how many bytes of a file are scales, those of kernels and of biases."""
    tensors = [x for graph in ModelFile(path.read_bytes()).graphs() for x in graph.tensors]
    return 4 * sum(len(x.scales) for x in tensors)


def rows_of(subject, folder):
    """Return what was measured of this package's files of a model."""
    rows = measure(subject, folder, [form for form in ALL if form[1] == OURS], rounds=0)
    for row in rows:
        if "file" not in row:
            continue
        path = folder.parent / row.pop("file")
        row["scale_bytes"] = scale_bytes(path)
        if row["accuracy"] is not None:
            test = load("test", "float32")
            found = kd.evaluate_tflite(path, test, runs=1, warmup=0, verbose=False)
            row["accuracy"] = found.accuracy
    return rows


def table(measured):
    """Return the Markdown table of what was measured, `{title: rows}`."""
    lines = [
        "| model | file | bytes | of them scales | published | right, % | agreement, % | dB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for title, rows in measured.items():
        name = title.removeprefix("MLPerf Tiny: ")
        file, size, right = PUBLISHED[title]
        lines.append(f"| {name} | published, `{file}` | {size:,} | | 100 % | {right} | | |")
        for row in rows:
            if "error" in row:
                lines.append(f"| {name} | {row['form']} | fails: {row['error']} | | | | | |")
                continue
            classes = "autoencoder" not in title
            right = percent(row["accuracy"])
            agreement = percent(row["agreement"] if classes else None)
            lines.append(
                f"| {name} | {row['form']} | {row['bytes']:,} | {row['scale_bytes']:,} "
                f"| {100 * row['bytes'] / size:.0f} % | {right} | {agreement} "
                f"| {row['signal_to_noise_db']:.1f} |"
            )
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=os.environ.get("KERAS_KD_MLPERF_TINY"))
    parser.add_argument("--only", nargs="*", help="titles of models [all]")
    parser.add_argument("--out", default="exports/mlperf_tiny", help="[exports/mlperf_tiny]")
    chosen = parser.parse_args(argv)
    if not chosen.models:
        parser.error("--models, or KERAS_KD_MLPERF_TINY, names the folder of the published models")
    makes, out, measured = subjects(chosen.models), pathlib.Path(chosen.out), {}
    out.mkdir(parents=True, exist_ok=True)
    for title in chosen.only or PUBLISHED:
        print(title, flush=True)
        folder = out / title.partition(": ")[2].replace(" ", "_")

        def made(title=title, folder=folder):
            return rows_of(Subject(*makes[title]()), folder)

        measured[title] = once(out / f"{folder.name}.json", made)
    text = table(measured)
    write_results(out, text, measured)
    print("\n" + text)


if __name__ == "__main__":
    main()
