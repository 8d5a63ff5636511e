"""Quantization and clustering of many models: what passes, and what is in 8 bits in the file.

    python benchmarks/coverage_models.py

Small architectures in the manner of the examples at keras.io, small models of KerasHub and the
families of keras.applications, all with random weights: each is checked, trained for a few steps
with `QuantizeAware` and with `Cluster`, exported to int8 with and without representative data,
saved and loaded again. The figures are about coverage and agreement: no accuracy can be read from
random weights. Each model runs in a process of its own, with a limit of time, and leaves a JSON
file in `--out`; what is there already is not run again.
"""

import argparse
import collections
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import warnings

from application_models import MODELS as APPLICATIONS
from kept_results import write_results

from keras_kd.system.files import atomic_path
from keras_kd.system.text_table import markdown_table

GROUPS = {
    "architectures": [
        "ViT with custom layers", "MLP-Mixer", "ConvMixer", "MobileViT", "U-Net",
        "EfficientNet-like", "Hard-swish network", "Subclassed ResNet", "Siamese", "Autoencoder",
        "DeepLab-like", "Text transformer", "BiLSTM", "GRU", "WaveNet", "TCN", "CTC", "PointNet",
        "Two-tower", "Wide and deep", "Graph network",
    ],
    "hub": [
        "BERT", "DistilBERT", "ViT", "DeiT", "GPT-2", "Gemma", "Llama", "MobileNetV3", "ResNet",
        "SegFormer", "Whisper",
    ],
    "applications": list(APPLICATIONS),
}  # fmt: skip
MODELS = [f"{group}: {name}" for group, names in GROUPS.items() for name in names]
SAMPLES = 32
BATCH = 8
CLUSTERS = 8
# At the usual 1e-4, the first steps of Adam throw random weights far out of the calibrated ranges.
LEARNING_RATE = 1e-6
# Operators of the file that multiply with a kernel, or look up its rows.
_KERNEL_OPERATORS = (
    "BATCH_MATMUL", "CONV_2D", "CONV_3D", "CONV_3D_TRANSPOSE", "DEPTHWISE_CONV_2D",
    "EMBEDDING_LOOKUP", "FULLY_CONNECTED", "GATHER", "TRANSPOSE_CONV",
)  # fmt: skip
_SAME_NUMBERS = ("DEQUANTIZE", "RESHAPE", "SQUEEZE", "TRANSPOSE")


def build(model, seed=0):
    """Return a model with random weights, and inputs for it.

    Args:
        model: One of `MODELS`.
        seed: Of its weights. Defaults to `0`.
    """
    import application_models
    import architectures
    import hub_models
    import keras

    group, name = model.split(": ")
    if group == "applications":
        built, inputs = application_models.build(name, SAMPLES)
        return built, inputs
    keras.utils.set_random_seed(seed)
    known = architectures.ARCHITECTURES if group == "architectures" else hub_models.HUB_MODELS
    built, inputs = known[name](SAMPLES)
    if group == "hub":
        hub_models.shuffle(built)
    application_models.set_batch_statistics(built, inputs)
    return built, inputs


def teacher_of(model, student):
    """Return a teacher of the same kind; for a large student, a small one on the same images."""
    import keras

    if not model.startswith("applications"):
        return build(model, seed=1)[0]
    pixels = keras.Input(student.input_shape[1:])
    pooled = keras.layers.GlobalAveragePooling2D()(pixels)
    return keras.Model(pixels, keras.layers.Dense(student.output_shape[-1])(pooled))


def batches(inputs):
    """Return a data set of the inputs, with labels that nothing learns from."""
    import numpy as np
    import tensorflow as tf

    x = tuple(inputs) if isinstance(inputs, list) else inputs
    return tf.data.Dataset.from_tensor_slices((x, np.zeros(SAMPLES, "int32"))).batch(BATCH)


def compress(model, student, inputs, stage):
    """Return the student after one stage with a teacher."""
    import numpy as np

    import keras_kd as kd

    outputs = student(first(inputs, 2))
    loss = kd.losses.KLDivergence() if outputs.shape[-1] > 1 else kd.losses.LogitsMSE()
    if model.endswith("Autoencoder"):  # it ends in a sigmoid
        loss = kd.losses.BinaryKLDivergence(from_logits=False)
    distiller = kd.Distiller(teacher_of(model, student), student, loss, None, 0.0)
    distiller.compile("adam")
    compressed = kd.compress(distiller, batches(inputs), stages=[stage], verbose=0)
    last = compressed.history[stage.name]["loss"][-1]
    if not np.isfinite(last):
        raise ValueError(f"The loss after an epoch is {last}.")
    return compressed


def moved(compressed, inputs):
    """Return the outputs of a model whose weights are moved by a millionth.

    A value next to the middle of two steps is rounded to either, and steps grow from layer to
    layer: what that comes to in this model.
    """
    import numpy as np

    random, before = np.random.default_rng(2), compressed.model.get_weights()
    floats = [np.issubdtype(w.dtype, np.floating) for w in before]
    compressed.model.set_weights(
        [
            w * (1 + 1e-6 * random.normal(size=w.shape)).astype(w.dtype) if is_float else w
            for w, is_float in zip(before, floats, strict=True)
        ]
    )
    outputs = compressed.predict(batches(inputs))
    compressed.model.set_weights(before)
    return outputs


def first(inputs, count):
    """Return some samples of inputs."""
    import keras

    return keras.tree.map_structure(lambda x: x[:count], inputs)


def quantize(model, student, inputs, result):
    """Quantize, export without and with representative data, save and load."""
    import keras_kd as kd

    compressed = compress(
        model,
        student,
        inputs,
        kd.QuantizeAware(
            epochs=1, calibration_batches=SAMPLES // BATCH, learning_rate=LEARNING_RATE
        ),
    )
    result["train"] = "yes"
    expected = compressed.predict(batches(inputs))
    again = moved(compressed, inputs)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        step(result, "save", save, compressed, expected, inputs, folder)
        for key, data in (("export", None), ("calibrated", batches(inputs))):
            path = folder / f"{key}.tflite"
            step(result, key, export, compressed, path, data, inputs, expected, again)


def save(compressed, expected, inputs, folder):
    """Return the largest difference between the outputs of a model and of the same loaded again."""
    import numpy as np

    import keras_kd as kd

    compressed.save(folder / "model.keras")
    loaded = kd.load_compressed(folder / "model.keras", safe_mode=False)
    return float(np.abs(loaded.predict(batches(inputs)) - expected).max())


def export(compressed, path, data, inputs, expected, again):
    """Write an int8 file and return what it is made of, and how far it is from the model."""
    import keras

    import keras_kd as kd
    from keras_kd.export.saved_model import source_of
    from keras_kd.litert.model_file import ModelFile
    from keras_kd.litert.runtime import LiteRuntime

    kd.export_tflite(compressed, path, "int8", data, verbose=False)
    file = ModelFile(path.read_bytes())
    names = [given.name for given in source_of(compressed, None, "int8").inputs]
    arrays = inputs
    if isinstance(arrays, dict):
        from keras_kd.data.numpy_batches import safe_name

        by_name = {safe_name(key): array for key, array in arrays.items()}
        arrays = [by_name[name] for name in names]
    arrays = dict(zip(names, keras.tree.flatten(arrays), strict=True))
    outputs = next(iter(LiteRuntime(path).predict(arrays).values()))
    floats = collections.Counter(operator.name for operator in file.float_operators())
    return {
        "kernels": kernels_in_8_bits(file),
        "operators": len(file.operators()),
        "float": dict(floats.most_common()),
        "bytes": path.stat().st_size,
        **differences(file, outputs, expected),
        "moved_within_a_step": differences(file, again, expected)["within_a_step"],
    }


def kernels_in_8_bits(file):
    """Return the share of the numbers in a file's kernels that have 8 bits or fewer."""
    count = {True: 0, False: 0}
    made_by = {(o.graph, index): o for o in file.operators() for index in o.output_indices}
    seen = set()
    for operator in file.operators():
        if operator.name not in _KERNEL_OPERATORS:
            continue
        for index in operator.input_indices:
            while (made := made_by.get((operator.graph, index))) and made.name in _SAME_NUMBERS:
                index = made.input_indices[0]
            if index < 0 or (operator.graph, index) in seen:
                continue
            tensor = file.tensor(operator.graph, index)
            if tensor.data is None or len(tensor.shape) < 2:
                continue
            seen.add((operator.graph, index))
            if tensor.kind in ("INT8", "INT4", "FLOAT32", "FLOAT16"):
                size = 1
                for n in tensor.shape:
                    size *= n
                count[tensor.kind.startswith("INT")] += size
    total = sum(count.values())
    return count[True] / total if total else None


def differences(file, outputs, expected):
    """Return how many steps of the file's output lie between its outputs and the model's."""
    import numpy as np

    last = file.output_operator(0, through=())
    scale = None
    if last is not None and last.name == "DEQUANTIZE":
        scale = file.describe_tensor(0, last.input_indices[0])["scale"]
    known = scale is not None
    scale = scale or float(np.ptp(expected)) / 255.0 or 1.0
    steps = np.abs(np.asarray(outputs, "float64") - expected) / scale
    return {
        "integer_output": known,
        "steps": float(steps.max()),
        "within_a_step": float((steps <= 1.01).mean()),
        "mean_steps": float(steps.mean()),
    }


def cluster(model, student, inputs, result):
    """Cluster, and return how many layers have few values."""
    import numpy as np

    import keras_kd as kd

    compressed = compress(
        model,
        student,
        inputs,
        kd.Cluster(CLUSTERS, epochs=1, learning_rate=LEARNING_RATE),
    )
    clustered = [record for record in compressed.layers if record.clusters]
    failed = [r.name for r in compressed.layers if "left it" in " ".join(r.not_done)]
    if not clustered or failed:
        raise ValueError(f"Of {len(clustered)} clustered layers, these have more values: {failed}")
    if not np.isfinite(compressed.predict(batches(inputs))).all():
        raise ValueError("The outputs of the clustered model are not finite.")
    return len(clustered)


def check(student):
    """Return the problems that `kd.check` names for quantization."""
    import keras_kd as kd

    found = kd.check(student, [kd.QuantizeAware()], ["int8"])
    if not found.ok:
        raise ValueError(str(found.problems[0]))
    return "ok"


def step(result, name, function, *arguments):
    """Keep what a step gives, or its error: what fails is a result, too."""
    start = time.perf_counter()
    try:
        result[name] = function(*arguments)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        result.setdefault("errors", {})[name] = text[:1500]
        if os.environ.get("COVERAGE_TRACEBACK"):
            import traceback

            traceback.print_exc()
    result.setdefault("seconds", {})[name] = round(time.perf_counter() - start, 1)


def measure(model, path):
    """Do all steps for one model, and write what they gave."""
    import keras

    import keras_kd as kd

    result = {"keras": keras.__version__, "keras_kd": kd.__version__}
    warnings.simplefilter("ignore")
    built = {}
    step(result, "build", lambda: built.update(model=build(model)))
    if built:
        del result["build"]
        student, inputs = built["model"]
        result["parameters"] = student.count_params()
        step(result, "check", check, student)
        step(result, "quantize", quantize, model, student, inputs, result)
        step(result, "cluster", cluster, model, student, inputs, result)
        result.pop("quantize", None)
    write(path, result)


def write(path, result):
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n")


def file_of(folder, model):
    return folder / f"{model.replace(': ', '_').replace(' ', '_')}.json"


def run(model, path, limit):
    """Measure one model in a process of its own."""
    command = [sys.executable, __file__, "--measure", model, "--out", str(path.parent)]
    try:
        process = subprocess.run(
            command,
            timeout=limit,
            capture_output=True,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
    except subprocess.TimeoutExpired:
        write(path, {"errors": {"time": f"not finished after {limit} seconds"}})
        return
    if not path.exists():
        last = process.stderr.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
        write(path, {"errors": {"process": last[0]}})


def passes(result):
    """Whether every step went through and the model loaded again gives the same numbers."""
    return not result.get("errors") and result["save"] == 0.0


def is_faithful(exported):
    """Whether a file is within one step of the model on 99.9 % of the outputs."""
    return exported["within_a_step"] >= 0.999


def row(model, result):
    """Return the cells of the table for one model."""
    cells = [model, "yes" if passes(result) else "**no**"]
    for key in ("export", "calibrated"):
        found = result.get(key)
        if found is None:
            cells += [""] * (5 if key == "export" else 4)
            continue
        floats = ", ".join(f"{name} {count}" for name, count in found["float"].items())
        share = found["kernels"]
        cells += [
            "" if share is None else f"{100 * share:.0f}",
            floats or "none",
            f"{100 * found['within_a_step']:.1f}",
            f"{found['steps']:.1f}",
        ]
        if key == "export":
            moved = found.get("moved_within_a_step")
            cells.append("" if moved is None else f"{100 * moved:.1f}")
    seconds = sum(result.get("seconds", {}).values())
    cells.append(f"{seconds:.0f}" if seconds else "")
    errors = result.get("errors", {})
    text = "; ".join(f"{key}: {value.splitlines()[0][:120]}" for key, value in errors.items())
    if result.get("save"):
        text = "; ".join(filter(None, [text, f"loaded: {result['save']:.1e} apart"]))
    return [*cells, text.replace("|", "\\|")]


def table(results):
    """Return the Markdown table of `results`, a dictionary by model."""
    head = (
        "model", "passes", "kernels in 8 bits, %", "operators in float", "within a step, %",
        "largest, steps", "moved model, %", "with data: kernels, %",
        "operators in float", "within a step, %", "largest, steps", "seconds", "what fails",
    )  # fmt: skip
    return markdown_table([head, *(row(name, results[name]) for name in MODELS if name in results)])


def summary(results):
    """Return one sentence about all of them."""
    exported = [r["export"] for r in results.values() if "export" in r]
    whole = sum(r["kernels"] in (None, 1.0) for r in exported)
    return (
        f"{sum(map(passes, results.values()))} of {len(results)} models pass. Of "
        f"{len(exported)} files written without representative data {whole} have all kernels in 8 "
        f"bits, {sum(not r['float'] for r in exported)} compute in integers alone, and "
        f"{sum(map(is_faithful, exported))} are within one step of the model on 99.9 % of the "
        "outputs."
    )


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="exports/coverage_models", metavar="FOLDER")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, metavar="NAME")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--limit", type=int, default=900, help="seconds for a model [900]")
    parser.add_argument("--again", action="store_true", help="run what failed before once more")
    parser.add_argument("--measure", choices=MODELS, metavar="NAME", help="one model, in-process")
    return parser.parse_args(argv)


def main(argv=None):
    chosen = arguments(argv)
    folder = pathlib.Path(chosen.out)
    if chosen.measure:
        measure(chosen.measure, file_of(folder, chosen.measure))
        return
    results = {}
    for model in chosen.models:
        if model.split(": ")[0] not in chosen.groups:
            continue
        path = file_of(folder, model)
        if chosen.again and path.exists() and json.loads(path.read_text()).get("errors"):
            path.unlink()
        if not path.exists():
            print(f"{model} ...", flush=True)
            run(model, path, chosen.limit)
        results[model] = json.loads(path.read_text())
    text = f"{table(results)}\n\n{summary(results)}"
    write_results(folder, text, results)
    print(f"\n{text}\n\nWritten to {folder}.")


if __name__ == "__main__":
    main()
