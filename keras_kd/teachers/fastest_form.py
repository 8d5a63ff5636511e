"""accelerate: the fastest equivalent of a teacher, found by measuring."""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_kd.models.copying import copy_layer, copy_state
from keras_kd.models.graph import origin_of, output_structure
from keras_kd.system.arguments import number
from keras_kd.teachers.fold_batch_norms import clone_graph, fold_batch_norms

ROUNDS = 7
# A form that is faster by less than this is within the noise of the measurement.
WORTHWHILE = 0.95


@dataclasses.dataclass(frozen=True)
class TeacherForm:
    """One form of a teacher, measured.

    Attributes:
        name: Such as `"folded, bfloat16"`.
        model: The model.
        time: Its time for the batch, divided by that of the teacher as it was given.
        difference: The largest difference of its outputs, divided by the teacher's largest output.
    """

    name: str
    model: keras.Model
    time: float
    difference: float


def accelerate(
    teacher: keras.Model,
    inputs: Any,
    *,
    tolerance: float = 1e-4,
    keep: Iterable[str] = (),
    verbose: Any = 1,
) -> keras.Model:
    """Return the fastest form of a teacher whose outputs stay within a tolerance.

    Measured on this machine, on `inputs`, side by side: the teacher as it is, with its batch
    normalizations folded (`fold_batch_norms`), and computing in bfloat16 with float32 weights and
    float32 output layers. bfloat16 has eight bits of precision: it is chosen only where
    `tolerance` allows for it, and it is fast only on processors that have it.

    Args:
        teacher: A functional or sequential model.
        inputs: A batch as the training will bring it, in size too.
        tolerance: The largest difference of the outputs on `inputs`, divided by the teacher's
            largest output, that is accepted. `0.02` lets bfloat16 compete on most networks.
            Defaults to `1e-4`.
        keep: Layers whose outputs hints read, as for `fold_batch_norms`. Defaults to none.
        verbose: 0 for silence. Defaults to `1`, one line per form.

    Returns:
        A model with the same layer names; the teacher itself where nothing is faster.

    Raises:
        ValueError: If the teacher is not a functional or sequential model, `inputs` is not a batch,
            or `tolerance` is not a number of at least 0.

    Example:

    ```python
    images, _ = next(iter(train))
    fast = keras_kd.teachers.accelerate(teacher, images, tolerance=0.02)
    distiller = keras_kd.Distiller(fast, student, keras_kd.losses.KLDivergence())
    ```
    """
    number("tolerance", tolerance, least=0)
    if isinstance(inputs, tf.data.Dataset):
        raise ValueError(
            "`inputs` must be one batch of inputs. Received: a dataset. Take its first: "
            "images, _ = next(iter(dataset))."
        )
    forms = measure_forms(teacher, inputs, keep=keep)
    allowed = [form for form in forms if form.difference <= tolerance]
    best = min(allowed, key=lambda form: form.time)
    if best.time > WORTHWHILE:
        best = forms[0]
    if verbose:
        for form in forms:
            choice = " <- chosen" if form is best else ""
            print(
                f"Teacher {form.name}: {form.time:.2f} of the time, outputs differ by "
                f"{form.difference:.1e}{choice}"
            )
    return best.model


def measure_forms(
    teacher: keras.Model, inputs: Any, *, keep: Iterable[str] = ()
) -> list[TeacherForm]:
    """Return every form of a teacher, measured; the first is the teacher as it is.

    Args:
        teacher: A functional or sequential model.
        inputs: A batch.
        keep: As for `accelerate`. Defaults to none.
    """
    folded = fold_batch_norms(teacher, keep)
    models = {"as it is": teacher}
    if folded is not teacher:
        models["folded"] = folded
    name = "bfloat16" if folded is teacher else "folded, bfloat16"
    models[name] = in_bfloat16(folded)
    inputs = keras.tree.map_structure(tf.convert_to_tensor, inputs)
    runs = [functools.partial(_compiled(model), inputs) for model in models.values()]
    outputs = [_flat(run()) for run in runs]
    times = side_by_side(runs)
    largest = max(float(np.abs(part).max()) for part in outputs[0])
    return [
        TeacherForm(
            name,
            model,
            elapsed / times[0],
            max(
                float(np.abs(a - b).max()) / max(largest, 1e-30)
                for a, b in zip(outputs[0], given, strict=True)
            ),
        )
        for (name, model), elapsed, given in zip(models.items(), times, outputs, strict=True)
    ]


def in_bfloat16(model: keras.Model) -> keras.Model:
    """Return a copy that computes in bfloat16, but for the layers that give the outputs.

    Args:
        model: A functional or sequential model whose layers compute in float32.
    """
    last = {
        origin_of(tensor).operation.name
        for tensor in keras.tree.flatten(output_structure(model))
        if not isinstance(origin_of(tensor).operation, keras.Model)
    }

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, keras.Model) and output_structure(layer) is not None:
            return in_bfloat16(layer)
        learned = hasattr(layer, "adapt")  # tables and bins, which bfloat16 would move
        if layer.dtype_policy.name == "float32" and layer.name not in last and not learned:
            return copy_layer(layer, dtype="mixed_bfloat16")
        return copy_layer(layer)

    copy = clone_graph(model, clone)
    copy_state(model, copy)
    return copy


def side_by_side(runs: Sequence[Callable[[], Any]], rounds: int = ROUNDS) -> list[float]:
    """Return the median seconds of each function, called in turn."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, measured in zip(runs, times, strict=True):
            start = time.perf_counter()
            _flat(run())
            measured.append(time.perf_counter() - start)
    return [statistics.median(measured) for measured in times]


def _compiled(model: keras.Model) -> Callable[[Any], Any]:
    return tf.function(lambda x: model(x, training=False), autograph=False)


def _flat(outputs: Any) -> list[np.ndarray]:
    return [np.asarray(tf.cast(part, "float32")) for part in keras.tree.flatten(outputs)]
