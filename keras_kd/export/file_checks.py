"""Checks and warnings for a written file."""

from __future__ import annotations

import pathlib
import re
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from keras_kd.export.int4 import WITH_WEIGHTS, larger_weights
from keras_kd.export.signatures import Signature
from keras_kd.litert import probe
from keras_kd.litert.constants import LEAST_WEIGHTS
from keras_kd.litert.model_file import ModelFile, Operator
from keras_kd.litert.runtime import check_file
from keras_kd.system.quiet import capture_output
from keras_kd.system.shown_text import counted


def place(operator: Operator) -> str:
    """Return the layer path in an operator's output name.

    The names of fused operators are joined by semicolons.
    """
    return operator.outputs[0].split(";")[0] if operator.outputs else "?"


def refuse_custom_operators(
    operators: Sequence[Operator], target: pathlib.Path, allow_flex: bool
) -> None:
    """Refuse a file with operators that LiteRT does not have.

    Raises:
        ValueError: If there are any; operators and layers are named.
    """
    custom = [o for o in operators if o.custom and not (allow_flex and o.is_flex)]
    if custom:
        named = ", ".join(f"{o.name} (in {place(o)})" for o in custom[:5])
        raise ValueError(
            f"'{target}' was not written: it would need operators that are not builtin: {named}. "
            "Replace the layers that compute them."
        )


def check_runs(
    temporary: pathlib.Path,
    file: ModelFile,
    target: pathlib.Path,
    signatures: Mapping[str, Signature],
    samples: Sequence[Mapping[str, np.ndarray]] = (),
) -> None:
    """Load a file in LiteRT and run every signature of it.

    Args:
        temporary: The file.
        file: What it holds, with the names of all tensors.
        target: Its final name, for messages.
        signatures: Its signatures by name.
        samples: Real inputs by name, each of batch size 1. Defaults to none: made-up numbers.

    Raises:
        ValueError: If the file cannot be run.
    """
    inputs = next(iter(signatures.values())).inputs
    if where := _without_range(file):
        raise ValueError(
            f"'{target}' was not written: LiteRT would abort on it, because the output of "
            f"'{where}' is constant and has no integer range. A normalization over an axis of "
            "size 1 always returns its offset: remove it."
        )
    try:
        check_file(temporary, [[sample[i.name] for i in inputs] for sample in samples])
        if len(signatures) > 1:
            with capture_output(False):
                signature_outputs(temporary, samples=samples)
    except (ValueError, RuntimeError) as error:
        reason = str(error).replace(str(temporary), target.name)
        if where := _failed_layer(file, reason):
            reason += f" The operator comes from '{where}'."
        if zero := _zero_kernels(file):
            reason += (
                f" All weights are zero in: {', '.join(zero)}. Prune less there, or leave these "
                "layers out."
            )
        elif "failed to invoke" in reason and not samples:
            reason += (
                " It was run on random inputs: pass `representative_data` to run it on real ones."
            )
        raise ValueError(f"'{target}' was not written. {reason}") from None


def _without_range(file: ModelFile) -> str | None:
    """Return the layer of a squared difference whose output has too small a scale for LiteRT.

    Its kernel for int8 multiplies by (2 * the larger input scale)² / (2**14 * the output scale) as
    a fixed-point number below 1, and ends the process where it is none.
    """
    for operator in file.operators():
        if operator.name != "SQUARED_DIFFERENCE":
            continue
        indices = [*operator.input_indices, *operator.output_indices]
        facts = [file.describe_tensor(operator.graph, index) for index in indices]
        if all(fact["dtype"] == "int8" and fact["scale"] for fact in facts):
            *given, result = (fact["scale"] for fact in facts)
            if (2 * max(given)) ** 2 >= 2**14 * result:
                return place(operator)
    return None


def _failed_layer(file: ModelFile, reason: str) -> str | None:
    """Return the layer of the operator that LiteRT's error names by its number."""
    found = re.search(r"Node number (\d+) \((\w+)\)", reason)
    if found is None:
        return None
    operators = [o for o in file.operators() if not o.graph]
    number = int(found.group(1))
    if number < len(operators) and operators[number].name == found.group(2):
        return place(operators[number])
    return None


def _zero_kernels(file: ModelFile) -> list[str]:
    """Places of the operators whose kernels hold nothing but zeros: in 8 bits, their scale is 0."""
    found = []
    for operator in file.operators():
        for index in operator.input_indices if operator.name in WITH_WEIGHTS else ():
            tensor = file.tensor(operator.graph, index) if index >= 0 else None
            if tensor is not None and len(tensor.shape) >= 2 and tensor.data is not None:
                found += [] if tensor.data.any() else [place(operator)]
    return found


def try_flex(
    content: bytes,
    file: ModelFile,
    target: pathlib.Path,
    layers: Sequence[str],
    samples: Sequence[Mapping[str, np.ndarray]] = (),
) -> tuple[bool, str]:
    """Run a file with TensorFlow's own operators where TensorFlow can.

    LiteRT for Python has none of them, and TensorFlow for Python lost them with version 2.20
    (https://github.com/google-ai-edge/LiteRT/issues/6458).

    Args:
        content: The file's bytes.
        file: What they hold, with the names of all tensors.
        target: Its name.
        layers: The layers which need them, as far as they are known.
        samples: Real inputs by name, each of batch size 1. Defaults to none: made-up numbers.

    Returns:
        Whether it was run, and a sentence about where it does not run.

    Raises:
        ValueError: If TensorFlow has the operators and fails on the file.
    """
    ran = True
    with tempfile.TemporaryDirectory() as name:
        written = pathlib.Path(name) / target.name
        written.write_bytes(content)
        try:
            with capture_output(False):
                signature_outputs(written, flex=True, samples=samples)
        except (ValueError, RuntimeError) as error:
            if "link the Flex delegate" not in str(error):
                raise ValueError(f"'{target}' was not written. {error}") from None
            ran = False
    flex = [operator for operator in file.operators() if operator.is_flex]
    where = list(dict.fromkeys(layers or [place(operator) for operator in flex]))
    named = f"{counted(Counter(o.name for o in flex))} (in {', '.join(where[:5])})"
    tried = (
        "it was run in tf.lite.Interpreter"
        if ran
        else "this TensorFlow has no Flex delegate, so it was not run here"
    )
    return ran, (
        f"'{target}' needs TensorFlow's own operators, {named}: {tried}; it runs only in an "
        "application that links the Flex delegate, not in LiteRT for Python, on microcontrollers "
        "or in kd.evaluate_tflite; replace these layers to avoid them."
    )


def signature_outputs(
    file: pathlib.Path, flex: bool = False, samples: Sequence[Mapping[str, np.ndarray]] = ()
) -> dict[str, np.ndarray]:
    """Run every signature of a file once, on numbers that are the same each time.

    Args:
        file: The file.
        flex: Whether to run it in `tf.lite.Interpreter`. Defaults to `False`.
        samples: Real inputs by name, each of batch size 1, of which the first is taken. Defaults
            to none: made-up numbers.

    Returns:
        Outputs by `"signature/output"`.
    """
    interpreter: Any
    if flex:
        import tensorflow as tf

        interpreter = tf.lite.Interpreter(model_path=str(file))
    else:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_path=str(file))
    found = {}
    for key in interpreter.get_signature_list():
        runner = interpreter.get_signature_runner(key)
        arrays = {}
        for name, detail in runner.get_input_details().items():
            sizes = detail["shape_signature"]
            # Convolutions need more than one position where any number is taken.
            shape = [(64 if i else 1) if size < 0 else size for i, size in enumerate(sizes)]
            given = samples[0][name] if samples else probe.made_up(detail, shape)
            arrays[name] = probe.quantize(probe.filled(given, detail), detail)
        for name, values in runner(**arrays).items():
            found[f"{key}/{name}"] = values
    return found


def warnings_of(
    file: ModelFile,
    target: pathlib.Path,
    quantization: str,
    integer_io: bool,
    asked: Collection[str] = (),
) -> list[str]:
    """Return what a file does otherwise than was asked for, one sentence each.

    Args:
        file: The file.
        target: Its name.
        quantization: What was asked for.
        integer_io: Whether integer inputs and outputs were.
        asked: Names of the outputs of operators that were to be otherwise. Defaults to none.
    """
    sentences = []
    if file.remembers:
        sentences.append(
            f"'{target}' keeps the state of its recurrent layers from one run to the next, which "
            "its model does not. Call `interpreter.reset_all_variables()` before each sample (on a "
            "microcontroller `interpreter.Reset()`)."
        )
    if quantization not in ("int8", "int16x8"):
        return sentences + _larger(file, target, _BITS_OF_WEIGHTS[quantization], asked)
    kept = [o for o in file.float_operators() if not set(o.outputs) & set(asked)]
    if kept:
        places = ", ".join(dict.fromkeys(place(operator) for operator in kept[:5]))
        sentences.append(
            f"'{target}' is not integer throughout: {counted(Counter(o.name for o in kept))} stay "
            f"in float (in {places})."
        )
    if integer_io and (floating := file.float_inputs_and_outputs()):
        sentences.append(
            f"'{target}' keeps float inputs or outputs despite `integer_io=True`: "
            f"{', '.join(floating)}. They belong to operators that stay in float."
        )
    return sentences


_BITS_OF_WEIGHTS = {"float32": 32, "float16": 16, "weight_only": 8, "dynamic": 8, "int4": 4}


def _larger(file: ModelFile, target: pathlib.Path, bits: int, asked: Collection[str]) -> list[str]:
    kept, some = larger_weights(file, bits, asked)
    if not kept:
        return []
    parts = [
        f"the weights of {counted(counts)} in {'8 bits' if kind == 'INT8' else 'float'}"
        for kind, counts in kept.items()
    ]
    why = f"LiteRT or the converter has no {bits}-bit form of them"
    if bits == 16:
        why = f"float16 cannot hold their numbers, or {why}"
    rest = f"All other weights of {LEAST_WEIGHTS:,} numbers or more have {bits} bits."
    if not some:
        why = f"they have fewer than {LEAST_WEIGHTS:,} numbers, or {why}"
        rest = f"No weight has {bits} bits."
        rest += " The file is not smaller than as float32." if list(kept) == ["FLOAT32"] else ""
    return [f"'{target}' stores {' and '.join(parts)}: {why}. {rest}"]
