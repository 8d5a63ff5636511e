"""How LiteRT's integer kernels round, against exact arithmetic on the same integers.

    python benchmarks/integer_kernels.py

A model with the common operators is calibrated with `QuantizeAware` and exported to int8. Its file
is run with XNNPACK, with LiteRT's own kernels and with the reference kernels. Every output of an
operator is compared with the result of its integer inputs in float64, in steps of the output: a
kernel that rounds to the nearest step is at most half a step away.
"""

import argparse
import collections
import pathlib
import tempfile

import numpy as np
from kept_results import write_results

from keras_kd.system.text_table import markdown_table

KERNELS = {
    "XNNPACK": "AUTO",
    "LiteRT": "BUILTIN_WITHOUT_DEFAULT_DELEGATES",
    "reference": "BUILTIN_REF",
}
SAMPLES = 64


def model():
    """Return a model with the operators that are compared."""
    import keras
    from keras import layers, ops

    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(16, 3, padding="same")(image)
    x = layers.Activation("hard_swish")(x)
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    y = layers.Activation("swish")(x)
    x = layers.Add()([layers.Activation("tanh")(x), y])
    x = layers.Maximum()([x, y])  # both are rescaled
    x = layers.Activation("gelu")(layers.AveragePooling2D(2)(x))
    pooled = layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = layers.Reshape((64, 16))(layers.Multiply()([x, pooled]))
    scores = ops.softmax(ops.matmul(x, ops.transpose(x, (0, 2, 1))))
    x = ops.matmul(scores, layers.Dense(16)(x))
    return keras.Model(image, layers.Dense(10)(layers.Flatten()(x)))


def quantized_file(path):
    """Write the int8 file of the model, and return images for it."""
    import keras

    import keras_kd as kd

    keras.utils.set_random_seed(0)
    student = model()
    images = np.random.default_rng(0).normal(size=(SAMPLES, 16, 16, 3)).astype("float32")
    distiller = kd.Distiller(None, student, [], student_loss_weight=1.0)
    distiller.compile("sgd", "mse")
    data = (images, np.zeros((SAMPLES, 10), "float32"))
    stage = kd.QuantizeAware(epochs=0)
    kd.export_tflite(kd.compress(distiller, data, stages=[stage], verbose=0), path, "int8")
    return images


def exact(operator, inputs, file):
    """Return what an operator computes in float64, `None` of one that is not compared."""
    import tensorflow as tf

    options, name = operator.options, operator.name
    if name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        x, kernel, bias = inputs
        strides = [1, options.strideH, options.strideW, 1]
        convolve = tf.nn.conv2d if name == "CONV_2D" else tf.nn.depthwise_conv2d
        padding = ("SAME", "VALID")[options.padding]
        return convolve(x, kernel.transpose(1, 2, 3, 0), strides, padding).numpy() + bias
    if name == "FULLY_CONNECTED":
        return inputs[0] @ inputs[1].T + (inputs[2] if len(inputs) > 2 else 0.0)
    if name == "BATCH_MATMUL":
        first = inputs[0].swapaxes(-1, -2) if options.adjX else inputs[0]
        return first @ (inputs[1].swapaxes(-1, -2) if options.adjY else inputs[1])
    if name == "MEAN":
        axes = tuple(file.tensor(0, operator.input_indices[1]).data.view("int32"))
        return inputs[0].mean(axes, keepdims=options.keepDims)
    functions = {
        "ADD": np.add,
        "MUL": np.multiply,
        "LOGISTIC": lambda x: 1.0 / (1.0 + np.exp(-x)),
        "TANH": np.tanh,
        "HARD_SWISH": lambda x: x * np.clip(x + 3.0, 0.0, 6.0) / 6.0,
        "QUANTIZE": lambda x: x,
        "GELU": lambda x: np.asarray(tf.nn.gelu(x, approximate=options.approximate)),
    }
    return functions[name](*inputs) if name in functions else None


def compare(content, images, kernels):
    """Return, by operator, the share that is rounded otherwise and the largest distance."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    from keras_kd.litert.model_file import ModelFile

    file = ModelFile(content)
    operators = [o for o in file.operators() if o.output_types[0] == "INT8"]
    graph = file.model.subgraphs[0]
    graph.outputs = np.array(sorted({o.output_indices[0] for o in operators}), "int32")
    file.model.signatureDefs = []
    resolver = getattr(OpResolverType, KERNELS[kernels])
    runner = Interpreter(model_content=file.packed(), experimental_op_resolver_type=resolver)
    runner.allocate_tensors()
    found = collections.defaultdict(list)
    for image in images:
        runner.set_tensor(runner.get_input_details()[0]["index"], image[None])
        runner.invoke()

        def value(index):
            tensor = file.tensor(0, index)
            if tensor.data is None:
                integers = runner.get_tensor(index)
            else:
                integers = tensor.data.view(tensor.kind.lower()).reshape(tensor.shape)
            scales, zero = np.array(tensor.scales), tensor.zero_points[0]
            if len(scales) > 1:  # a kernel's, of one scale for each channel
                axis = next(i for i, n in enumerate(tensor.shape) if n == len(scales))
                scales = scales.reshape([-1 if i == axis else 1 for i in range(len(tensor.shape))])
            return (integers.astype("float64") - zero) * scales

        for operator in operators:
            taken = [i for i in operator.input_indices if i >= 0]
            if any(file.tensor(0, i).kind == "FLOAT32" for i in taken):
                continue
            given = [i for i in taken if file.tensor(0, i).scales]
            wanted = exact(operator, [value(i) for i in given], file)
            if wanted is not None:
                index = operator.output_indices[0]
                tensor = file.tensor(0, index)
                steps = wanted / tensor.scales[0] + tensor.zero_points[0]
                integers = runner.get_tensor(index)
                apart = np.abs(steps - integers)
                found[operator.name].append(apart[np.abs(integers + 0.5) < 127])
    return {
        name: {
            "otherwise": float((np.concatenate([p.ravel() for p in parts]) > 0.5 + 1e-3).mean()),
            "farthest": max(float(part.max(initial=0.0)) for part in parts),
        }
        for name, parts in found.items()
    }


def table(results):
    """Return the Markdown table of `results`, dictionaries by operator, by kernels."""
    names = sorted({name for found in results.values() for name in found})
    head = ["operator"]
    for kernels in results:
        head += [f"{kernels}: rounded otherwise, %", "farthest, steps"]
    rows = [
        [
            name,
            *(
                cell
                for found in results.values()
                for cell in (
                    f"{100 * found[name]['otherwise']:.2f}",
                    f"{found[name]['farthest']:.3f}",
                )
            ),
        ]
        for name in names
    ]
    return markdown_table([head, *rows])


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="exports/integer_kernels", metavar="FOLDER")
    folder = pathlib.Path(parser.parse_args(argv).out)
    with tempfile.TemporaryDirectory() as name:
        path = pathlib.Path(name) / "model.tflite"
        images = quantized_file(path)
        content = path.read_bytes()
    results = {kernels: compare(content, images, kernels) for kernels in KERNELS}
    folder.mkdir(parents=True, exist_ok=True)
    write_results(folder, table(results), results)
    print(f"{table(results)}\n\nWritten to {folder}.")


if __name__ == "__main__":
    main()
