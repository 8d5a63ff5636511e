"""Every family of CNNs in keras.applications through QuantizeAware and into an int8 file.

    python benchmarks/coverage_applications.py

One small member of each family, with random weights and small images, is quantized, trained for a
few steps, exported to int8 and run in LiteRT. The figures are about coverage and agreement: no
accuracy can be read from random weights. Each model runs in a process of its own,
with a limit of time, and leaves a JSON file in `--out`; what is there already is not run again.
"""

import argparse
import collections
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import warnings

from kept_results import write_results

from keras_kd.system.files import atomic_path
from keras_kd.system.text_table import markdown_table

# The module in keras.applications and the smallest size of images that suits the architecture.
MODELS = {
    "VGG16": ("vgg16", 32),
    "ResNet50": ("resnet50", 32),
    "ResNet50V2": ("resnet_v2", 32),
    "DenseNet121": ("densenet", 32),
    "InceptionV3": ("inception_v3", 75),
    "Xception": ("xception", 71),
    "MobileNet": ("mobilenet", 32),
    "MobileNetV2": ("mobilenet_v2", 32),
    "MobileNetV3Small": ("mobilenet_v3", 32),
    "EfficientNetB0": ("efficientnet", 32),
    "EfficientNetV2B0": ("efficientnet_v2", 32),
    "NASNetMobile": ("nasnet", 32),
    "ConvNeXtTiny": ("convnext", 32),
}
CLASSES = 10
IMAGES = 32
BATCH = 8
# At the usual 1e-4, the first steps of Adam throw random weights far out of the calibrated ranges.
LEARNING_RATE = 1e-6


def images_of(size):
    """Return smooth random images from 0 to 255, each of another mean, contrast and pattern."""
    import numpy as np
    import tensorflow as tf

    generator = np.random.default_rng(0)
    coarse = generator.normal(size=(IMAGES, 4, 4, 3))
    smooth = tf.image.resize(coarse, (size, size), method="bicubic").numpy()
    contrast = generator.uniform(20, 80, (IMAGES, 1, 1, 1))
    mean = generator.uniform(64, 192, (IMAGES, 1, 1, 3))
    return np.clip(mean + contrast * smooth, 0, 255).astype("float32")


def build(name):
    """Return a model with random weights and images for it, preprocessed as its family does it."""
    import keras

    keras.utils.set_random_seed(0)
    module, size = MODELS[name]
    module = getattr(keras.applications, module)
    model = getattr(keras.applications, name)(
        weights=None,
        input_shape=(size, size, 3),
        classes=CLASSES,
        classifier_activation=None,
    )
    images = module.preprocess_input(images_of(size))
    set_batch_statistics(model, images)
    return model, images


def set_batch_statistics(model, images):
    """Let every BatchNormalization divide by the root of the mean square of its inputs.

    With its initial statistics, activations of a deep model with random weights vanish or explode;
    with the mean taken off as well, such a model magnifies every rounding.
    """
    import keras
    import numpy as np

    norms = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    model(images, training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
        mean, variance = np.asarray(layer.moving_mean), np.asarray(layer.moving_variance)
        layer.moving_variance.assign(variance + mean**2)
        layer.moving_mean.assign(np.zeros_like(mean))


def count_layers(model, stage, result):
    """Count what QuantizeAware quantizes, by layer and by weight, and what it leaves in float."""
    from keras_kd.compression.stages.layer_record import leaf_layers

    weighted = {path: layer for path, layer in leaf_layers(model) if layer.weights}
    plan = stage.layer_plans(model, [])
    actions = collections.Counter(plan[path].action for path in weighted)
    floats, folded = actions.pop("float", 0), actions.pop("fold", 0)
    result["layers"] = {
        "with_weights": len(weighted),
        "quantized": len(weighted) - floats - folded,
        "folded": folded,
    }
    result["kernel_weights"] = kernels = {"all": 0, "quantized": 0}
    for path, layer in weighted.items():
        count = sum(math.prod(w.shape) for w in layer.weights if len(w.shape) > 1)
        kernels["all"] += count
        kernels["quantized"] += count if plan[path].action not in ("float", "fold") else 0
    classes = dict(leaf_layers(model))
    left = [type(classes[path]).__name__ for path in plan if plan[path].action == "float"]
    result["float"] = dict(collections.Counter(left).most_common())


def train(model, images, result):
    """Compress with QuantizeAware: an epoch of a few steps, a small teacher teaching."""
    import keras
    import numpy as np

    import keras_kd as kd

    pixels = keras.Input(model.input_shape[1:])
    pooled = keras.layers.GlobalAveragePooling2D()(pixels)
    teacher = keras.Model(pixels, keras.layers.Dense(CLASSES)(pooled))
    distiller = kd.Distiller(teacher, model, kd.losses.KLDivergence(temperature=4.0))
    distiller.compile("adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    labels = np.random.default_rng(1).integers(0, CLASSES, IMAGES)
    stage = kd.QuantizeAware(
        epochs=1, calibration_batches=IMAGES // BATCH, learning_rate=LEARNING_RATE
    )
    count_layers(model, stage, result)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = batches(images, labels)
        compressed = kd.compress(distiller, data, stages=[stage], verbose=0)
    loss = compressed.history[stage.name]["loss"][-1]
    if not np.isfinite(loss):
        raise ValueError(f"The loss after a step is {loss}.")
    result["train"] = {"steps": IMAGES // BATCH, "loss": loss}
    return compressed


def batches(images, labels):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(BATCH)


def export(compressed, images, result):
    """Export to int8 and compare what the file says with what the model says."""
    import numpy as np

    import keras_kd as kd

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = kd.export_tflite(
            compressed,
            pathlib.Path(folder) / "model.tflite",
            quantization="int8",
            representative_data=images,
            verbose=False,
        )
        measured = kd.evaluate_tflite(path, images, compressed, runs=1, warmup=1)
    outputs = compressed.predict(images)
    # What makes the outputs of two images differ.
    spread = float(np.std(outputs - outputs.mean(0)))
    moved = compressed.predict(moved_by_a_step(images))
    result["magnification"] = {
        "agreement": float((moved.argmax(-1) == outputs.argmax(-1)).mean()),
        "difference": float(np.abs(moved - outputs).mean()) / spread,
    }
    result["export"] = {
        "agreement": measured.agreement,
        "difference": measured.mean_difference / spread,
        "bytes": measured.bytes,
        "operators": sum(measured.operators.values()),
        "float_operators": measured.float_operators,
    }


def moved_by_a_step(images):
    """Move every pixel up or down at random by a step of the 8 bits in which inputs are kept."""
    import numpy as np

    step = (images.max() - images.min()) / 255
    signs = np.random.default_rng(2).choice([-1.0, 1.0], images.shape)
    return (images + step * signs).astype("float32")


def measure(name, path):
    """Do all steps for one model, and write what they gave; an error ends them."""
    import keras

    import keras_kd as kd

    result = {"keras": keras.__version__, "keras_kd": kd.__version__, "size": MODELS[name][1]}
    start, step = time.perf_counter(), "build"
    try:
        model, images = build(name)
        result["parameters"] = model.count_params()
        step = "train"
        compressed = train(model, images, result)
        step = "export"
        export(compressed, images, result)
    except Exception as error:
        # What fails is a result, too: any error whatsoever is kept and shown in the table.
        result["error"] = {"step": step, "text": f"{type(error).__name__}: {error}"[:2000]}
    result["seconds"] = round(time.perf_counter() - start, 1)
    write(path, result)


def write(path, result):
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n")


def run(name, path, limit):
    """Measure one model in a process of its own."""
    command = [sys.executable, __file__, "--measure", name, "--out", str(path.parent)]
    try:
        process = subprocess.run(
            command,
            timeout=limit,
            capture_output=True,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
    except subprocess.TimeoutExpired:
        write(path, {"error": {"step": "time", "text": f"not finished after {limit} seconds"}})
        return
    if not path.exists():
        last = process.stderr.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
        write(path, {"error": {"step": "process", "text": last[0]}})


def row(name, result):
    """Return the cells of the table for one model."""
    cells = [name]
    if "layers" in result:
        layers = result["layers"]
        done, kernels = layers["quantized"] + layers["folded"], result["kernel_weights"]
        cells += [
            f"{done} of {layers['with_weights']}",
            f"{100 * kernels['quantized'] / kernels['all']:.1f}",
            ", ".join(f"{key} {count}" for key, count in result["float"].items()) or "none",
        ]
    else:
        cells += ["", "", ""]
    cells.append("yes" if "train" in result else "")
    if "export" in result:
        exported = result["export"]
        floats = sum(exported["float_operators"].values())
        cells += [
            f"{exported['operators'] - floats} of {exported['operators']}",
            f"{100 * exported['agreement']:.0f}",
            f"{exported['difference']:.3f}",
            *_magnification(result),
        ]
    elif "error" in result:
        text = result["error"]["text"].splitlines()[0].replace("|", "\\|")
        cells += [f"**{result['error']['step']}**: {text[:150]}", "", "", "", ""]
    return cells


def _magnification(result):
    moved = result.get("magnification")
    if moved is None:
        return "", ""
    return f"{100 * moved['agreement']:.0f}", f"{moved['difference']:.3f}"


def table(results):
    """Return the Markdown table of `results`, a dictionary by name of the model."""
    head = (
        "model", "layers in 8 bits", "kernels in 8 bits, %", "layers in float", "trains",
        "operators in integers", "same class, %", "difference", "moved input: same class, %",
        "difference",
    )  # fmt: skip
    return markdown_table([head, *(row(name, results[name]) for name in MODELS if name in results)])


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="exports/coverage_applications", metavar="FOLDER")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="NAME")
    parser.add_argument("--limit", type=int, default=900, help="seconds for a model [900]")
    parser.add_argument("--again", action="store_true", help="run what failed before once more")
    parser.add_argument("--measure", choices=MODELS, metavar="NAME", help="one model, in-process")
    return parser.parse_args(argv)


def main(argv=None):
    chosen = arguments(argv)
    folder = pathlib.Path(chosen.out)
    if chosen.measure:
        measure(chosen.measure, folder / f"{chosen.measure}.json")
        return
    results = {}
    for name in chosen.models:
        path = folder / f"{name}.json"
        if chosen.again and path.exists() and "error" in json.loads(path.read_text()):
            path.unlink()
        if not path.exists():
            print(f"{name} ...", flush=True)
            run(name, path, chosen.limit)
        results[name] = json.loads(path.read_text())
    text = table(results)
    write_results(folder, text, results)
    print(f"\n{text}\n\nWritten to {folder}.")


if __name__ == "__main__":
    main()
