"""What the tables of a TFLite file weigh: as the converter writes them, and as this package does.

    python benchmarks/slim_files.py --models FOLDER [--out FOLDER]

`FOLDER` holds MLPerf Tiny's Keras models as published by mlcommons/tiny. They, the int8 file of a
Fashion-MNIST student and a DS-CNN for keyword spotting are packed again in several forms. Numbers
of the weights do not change: every file is run on 8 inputs by XNNPACK, by LiteRT's reference
kernels and, in int8, by TensorFlow Lite for Microcontrollers, and must answer bit by bit as before.
Prints a Markdown table.
"""

import argparse
import os
import pathlib
import warnings

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from ai_edge_litert.tools import flatbuffer_utils
from kept_results import write_results
from keras import layers

import keras_kd as kd
from keras_kd.export.conversion import Conversion
from keras_kd.export.options import ExportOptions
from keras_kd.export.saved_model import source_of
from keras_kd.export.sparse import encodable, encode_sparse
from keras_kd.litert.model_file import ModelFile

DEMO = pathlib.Path(__file__).parents[1] / "exports" / "reference" / "seed0" / "int8.tflite"
FORMS = ("float32", "float32, sparse", "dynamic", "int8", "int4")


def keyword_spotting():
    """The DS-CNN of MLPerf Tiny's keyword spotting, with random weights."""
    keras.utils.set_random_seed(0)
    sound = keras.Input((49, 10, 1))
    x = layers.Conv2D(64, (10, 4), strides=2, padding="same", use_bias=False)(sound)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for _ in range(4):
        x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Conv2D(64, 1, use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(sound, layers.Dense(12, activation="softmax")(x))


def prune(model, sparsity=0.8):
    """Set the smallest weights to zero."""
    for layer in model.layers:
        for kernel in layer.weights[:1]:
            if len(kernel.shape) > 1:
                small = np.abs(kernel) < np.quantile(np.abs(kernel), sparsity)
                kernel.assign(np.where(small, 0.0, kernel))


def converted(model, form, inputs):
    """Return the bytes of a file as they were written before tables were shared."""
    quantization, _, sparse = form.partition(", ")
    job = Conversion(source_of(model), ExportOptions(quantization, batch_size=1))
    job.use_data(inputs, None)
    file = job.run().file
    if not sparse:
        return bytes(file.content)
    encode_sparse(file, encodable(file))
    return bytes(flatbuffer_utils.convert_object_to_bytearray(file.model))


def answers(content, form, seed=0):
    """Return what a file answers, by what runs it."""
    found = {}
    for resolver in (OpResolverType.AUTO, OpResolverType.BUILTIN_REF):
        interpreter = Interpreter(model_content=content, experimental_op_resolver_type=resolver)
        interpreter.allocate_tensors()
        (given,), results = interpreter.get_input_details(), interpreter.get_output_details()
        generator, found[resolver.name] = np.random.default_rng(seed), []
        for _ in range(8):
            interpreter.set_tensor(given["index"], sample(generator, given))
            interpreter.invoke()
            found[resolver.name] += [interpreter.get_tensor(d["index"]) for d in results]
    if form == "int8":
        from tflite_micro import runtime

        interpreter = runtime.Interpreter.from_bytes(content)
        generator, found["microcontrollers"] = np.random.default_rng(seed), []
        for _ in range(8):
            interpreter.set_input(sample(generator, given), 0)
            interpreter.invoke()
            found["microcontrollers"].append(interpreter.get_output(0))
    return found


def sample(generator, detail):
    """Return random numbers that an input takes."""
    scale = 32 if np.dtype(detail["dtype"]).kind == "i" else 1
    return (scale * generator.normal(size=detail["shape"])).astype(detail["dtype"])


def check_answers(name, form, before, *contents):
    """Return what runs a file, all of which must answer as they do with the first one."""
    expected = answers(before, form)
    for content in contents:
        for runtime, given in answers(content, form).items():
            if not all(map(np.array_equal, given, expected[runtime])):
                raise AssertionError(f"{name}, {form}: other answers with {runtime}")
    return sorted(expected)


def row_of(name, form, before):
    """Return one row of the table."""
    file = ModelFile(before)
    named, after = file.packed(), file.packed(keep_names=False)
    tensors = [tensor for graph in ModelFile(after).graphs() for tensor in graph.tensors]
    buffers = {tensor.buffer: tensor.data.nbytes for tensor in tensors if tensor.constant}
    return {
        "model": name,
        "form": form,
        "before": len(before),
        "with_names": len(named),
        "after": len(after),
        "numbers": sum(buffers.values()),
        "equal_answers": check_answers(name, form, before, named, after),
    }


def table_of(rows):
    """Return the rows as a Markdown table."""
    header = (
        "| model | form | bytes before | names kept | bytes now | of which numbers | smaller by |\n"
        "|---|---|---|---|---|---|---|\n"
    )
    return header + "\n".join(
        f"| {row['model']} | {row['form']} | {row['before']:,} | {row['with_names']:,} | "
        f"{row['after']:,} | {row['numbers']:,} | {1 - row['after'] / row['before']:.1%} |"
        for row in rows
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=os.environ.get("KERAS_KD_MLPERF_TINY"))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("exports/slim_files"))
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    models = {"DS-CNN, keyword spotting": keyword_spotting()}
    if chosen.models:
        folder = pathlib.Path(chosen.models)
        files = {"ResNet8": "pretrainedResnet", "MobileNetV1 0.25": "vww_96", "autoencoder": "ad01"}
        models |= {name: kd.teachers.load(folder / f"{file}.h5") for name, file in files.items()}
    rows = [row_of("pruned Fashion-MNIST student", "int8", DEMO.read_bytes())]
    for name, model in models.items():
        shape = (64, *model.inputs[0].shape[1:])
        inputs = np.random.default_rng(0).normal(size=shape).astype("float32")
        for form in sorted(FORMS, key=lambda form: "sparse" in form):  # pruned last
            if "sparse" in form:
                prune(model)
            rows.append(row_of(name, form, converted(model, form, inputs)))
            print(table_of(rows[-1:]).splitlines()[-1], flush=True)
    table = table_of(rows)
    print(table)
    write_results(chosen.out, table, rows)


if __name__ == "__main__":
    main()
