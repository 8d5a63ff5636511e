"""Every form of exported file, beside what a user would write otherwise.

    python benchmarks/export_variants.py --models exports/fashion_mnist

Models: the teacher and the distilled students which `benchmarks/fashion_mnist.py` left
in its folder, measured on the first 1,000 test images; MobileNetV2 and EfficientNetB0 of
keras.applications with random weights, where the share of images for which the file and the Keras
model give the same class stands in for the accuracy. Beside `kd.export_tflite`:
`keras.Model.export(format="litert")` with the converter's options, and `ai-edge-quantizer` alone on
its float file. Latencies of one model's files are measured side by side. Each model is kept in
`--out` when it is done. Prints a Markdown table.
"""

import argparse
import pathlib
import warnings

import application_models
import keras
import numpy as np
import tensorflow as tf
from fashion_data import load_images
from fashion_models import RECIPES
from kept_results import once, percent, write_results

import keras_kd as kd
from keras_kd.system.quiet import capture_output

KERAS, QUANTIZER = "keras export", "ai-edge-quantizer"
OURS = "keras_kd"
SIZE = 96
CALIBRATION = 256
IMAGES = 1000  # int16x8 runs on slow kernels on a desktop processor


class Subject:
    """A model and its data.

    Args:
        model: A Keras model, or what `kd.load_compressed` gives.
        calibration: Images, float32 `[n, height, width, channels]`.
        test: Images, and labels or `None`.
        deciding: Others, for `kd.quantize_within`. Defaults to `None`: it is not asked for.
    """

    def __init__(self, model, calibration, test, deciding=None):
        plain = getattr(model, "model", model)
        self.quantization_aware = not isinstance(plain, keras.Model)
        self.model = model if self.quantization_aware else plain
        self.calibration, self.test, self.deciding = calibration, test, deciding
        kernels = [weight for weight in plain.get_weights() if weight.ndim > 1]
        zeros = sum(np.sum(kernel == 0) for kernel in kernels)
        self.sparsity = zeros / sum(kernel.size for kernel in kernels)


def ours(quantization, **options):
    """Return a function which writes the file with keras_kd."""

    def write(subject, path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file = kd.export_tflite(
                subject.model,
                path,
                quantization,
                representative_data=subject.calibration,
                verbose=False,
                **options,
            )
        return {"calibration": file.fidelity.calibration if file.fidelity else None}

    return write


def feed(subject):
    """Return the converter's representative data set."""
    return lambda: ([image[None]] for image in subject.calibration)


def keras_export(calibrated=False, **options):
    """Return a function which writes the file with `keras.Model.export`."""

    def write(subject, path):
        given = dict(options)
        if calibrated:
            given["representative_dataset"] = feed(subject)
        with capture_output():
            subject.model.export(str(path), format="litert", verbose=False, **given)

    return write


def keras_quantized(subject, path):
    """Write the file of a model quantized by `keras.Model.quantize`."""
    copy = keras.models.clone_model(subject.model)
    copy.set_weights(subject.model.get_weights())
    with capture_output(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        copy.quantize("int8")
        copy.export(str(path), format="litert", verbose=False)


def quantizer(recipe):
    """Return a function which writes the file with `ai-edge-quantizer` alone."""

    def write(subject, path):
        from ai_edge_quantizer import quantizer as library
        from ai_edge_quantizer import recipe as recipes

        from keras_kd.litert.runtime import LiteRuntime

        source = path.with_name("source.tflite")
        keras_export()(subject, source)
        with capture_output():
            job = library.Quantizer(str(source), getattr(recipes, recipe)())
            calibrated = None
            if job.need_calibration:
                name = LiteRuntime(source).inputs[0].name
                data = {"serving_default": [{name: image[None]} for image in subject.calibration]}
                calibrated = job.calibrate(data)
            job.quantize(calibrated).export_model(str(path), overwrite=True)

    return write


DEFAULT = [tf.lite.Optimize.DEFAULT]
# Form, way, how it is written; the first way of a form is what the others are compared with.
FORMS = (
    ("float32", OURS, ours("float32")),
    ("float32", KERAS, keras_export()),
    ("float16", OURS, ours("float16")),
    (
        "float16",
        KERAS,
        keras_export(optimizations=DEFAULT, target_spec={"supported_types": [tf.float16]}),
    ),
    ("dynamic", OURS, ours("dynamic")),
    ("dynamic", KERAS, keras_export(optimizations=DEFAULT)),
    ("dynamic", QUANTIZER, quantizer("dynamic_wi8_afp32")),
    ("dynamic", "keras quantize, export", keras_quantized),
    ("int8", OURS, ours("int8")),
    ("int8", KERAS, keras_export(calibrated=True, optimizations=DEFAULT)),
    ("int8", QUANTIZER, quantizer("static_wi8_ai8")),
    ("int8, integer I/O", OURS, ours("int8", integer_io=True)),
    ("int16x8", OURS, ours("int16x8")),
    ("int16x8", QUANTIZER, quantizer("static_wi8_ai16")),
    ("int4", OURS, ours("int4")),
    ("int4", QUANTIZER, quantizer("dynamic_wi4_afp32")),
    ("float32, sparse", OURS, ours("float32", sparse=True)),
)


def subjects(folder):
    """Return, by title, functions which give a `Subject`."""

    def kept(name, load):
        def make():
            recipe = RECIPES["fashion_mnist"]
            data = load_images(recipe.dataset, recipe.validation_examples)
            images = data.train[0][:CALIBRATION].astype("float32") / 255.0
            test = data.test[0][:IMAGES].astype("float32") / 255.0
            return Subject(load(folder / name), images, (test, data.test[1][:IMAGES]))

        return make

    def application(name, module):
        def make():
            application_models.MODELS[name] = module, SIZE
            application_models.IMAGES = 2 * CALIBRATION
            model, images = application_models.build(name)
            return Subject(model, images[:CALIBRATION], (images[CALIBRATION:], None))

        return make

    return {
        "teacher": kept("teacher.keras", keras.models.load_model),
        "student, distilled": kept("seed0/distilled.keras", keras.models.load_model),
        "student, pruned": kept("seed0/pruned.keras", kd.load_compressed),
        "student, pruned, quantization-aware": kept("seed0/int8.h5", kd.load_compressed),
        "MobileNetV2": application("MobileNetV2", "mobilenet_v2"),
        "EfficientNetB0": application("EfficientNetB0", "efficientnet"),
    }


def asked(subject, form, way):
    """Return whether a form makes sense for a model."""
    if subject.quantization_aware:
        return way == OURS and form.startswith("int8")
    if "within" in form:
        return subject.deciding is not None
    return "sparse" not in form or subject.sparsity > 0.25


def measure(subject, folder, forms=None, rounds=100):
    """Write and measure every form of one model; return the rows.

    Args:
        subject: The model and its data.
        folder: Where the files are written.
        forms: Form, way and writing function of each row. Defaults to `None`: `FORMS`.
        rounds: How often latencies are measured side by side; 0 for never.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows, files = [], {}
    for number, (form, way, write) in enumerate(forms or FORMS):
        if not asked(subject, form, way):
            continue
        path = folder / f"{number}.tflite"
        row = {"form": form, "way": way}
        rows.append(row)
        try:
            row |= write(subject, path) or {}
            images, labels = subject.test
            data = images if labels is None else (images, labels)
            result = kd.evaluate_tflite(path, data, model=subject.model, runs=1)
            compared = kd.compare(path, images[:IMAGES], subject.model)
        except Exception as error:  # whatever a peer raises is its result
            row["error"] = type(error).__name__  # the converter's messages are pages long
            continue
        row |= {
            "accuracy": result.accuracy,
            "agreement": result.agreement,
            "difference": result.mean_difference,
            "signal_to_noise_db": min(compared.signal_to_noise_db, 200.0),  # of equal outputs
            "bytes": result.bytes,
            "file": f"{folder.name}/{path.name}",
            "zipped_bytes": result.zipped_bytes,
        }
        files[str(path)] = row
        print(f"  {form}, {way}: {result.bytes:,} bytes", flush=True)
    latencies = kd.benchmark_tflite_files(list(files), rounds=rounds) if rounds else {}
    for path, latency in latencies.items():
        files[path]["latency_ms"] = latency.latency_ms
    return rows


def table(measured):
    """Return the Markdown table of what was measured, `{title: rows}`."""
    lines = [
        "| model | form | written by | right, % | same as Keras, % | mean difference | kB "
        "| zipped kB | latency, ms |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for title, rows in measured.items():
        for row in rows:
            start = f"| {title} | {row['form']} | {row['way']} |"
            if "error" in row:
                lines.append(f"{start} fails: {row['error']} | | | | | |")
                continue
            right = percent(row["accuracy"])
            lines.append(
                f"{start} {right} | {100 * row['agreement']:.2f} | {row['difference']:.2g} "
                f"| {row['bytes'] / 1e3:.1f} | {row['zipped_bytes'] / 1e3:.1f} "
                f"| {row['latency_ms']:.3f} |"
            )
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="exports/fashion_mnist", help="its folder")
    parser.add_argument(
        "--out", default="exports/export_variants", help="[exports/export_variants]"
    )
    chosen = parser.parse_args(argv)
    folder = pathlib.Path(chosen.out)
    measured = {}
    for title, make in subjects(pathlib.Path(chosen.models)).items():
        kept = folder / f"{title.replace(', ', '_').replace(' ', '_')}.json"
        if not kept.exists():
            print(title, flush=True)
        measured[title] = once(
            kept, lambda make=make, kept=kept: measure(make(), folder / kept.stem)
        )
        keras.utils.clear_session()
    text = table(measured)
    write_results(folder, text, measured)
    print("\n" + text)


if __name__ == "__main__":
    main()
