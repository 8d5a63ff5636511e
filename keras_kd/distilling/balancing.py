"""How large the gradients of the losses are, and weights that make them equal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_kd.data.first_batch import first_batch

BALANCED = "balanced"
_BATCHES = 4
_ROWS = 32


def gradient_shares(
    distiller: Any, x: Any, y: Any = None, sample_weight: Any = None
) -> dict[str, float]:
    """Return what share of the gradient each loss of a distiller has.

    The norm of each loss's gradient with respect to the student's variables, times its weight,
    divided by the sum of these products; the mean over the first batches. Nothing is trained.

    Args:
        distiller: A compiled `kd.Distiller`.
        x: What `fit` takes as `x`; not a generator.
        y: Labels, where `x` is arrays. Defaults to `None`.
        sample_weight: Weights, where `x` is arrays. Defaults to `None`.

    Returns:
        Shares by the names of the logs: `"student_loss"`, then each distillation loss.

    Raises:
        ValueError: If the data can be read only once.

    Example:

    ```python
    distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    keras_kd.gradient_shares(distiller, train)  # {"student_loss": 0.61, "kl_divergence": 0.39}
    ```
    """
    distiller.check_data(first_batch(x, y, sample_weight))
    return _shares(distiller.objective, _gradient_norms(distiller, x, y, sample_weight))


def balance(
    distiller: Any, x: Any, y: Any = None, sample_weight: Any = None, verbose: bool = True
) -> None:
    """Weigh the distillation losses so that their gradients have the norm of the first one's.

    Args:
        distiller: A compiled and built `kd.Distiller`.
        x: What `fit` takes as `x`.
        y: Labels, where `x` is arrays. Defaults to `None`.
        sample_weight: Weights, where `x` is arrays. Defaults to `None`.
        verbose: Whether weights and shares are printed. Defaults to `True`.

    Raises:
        ValueError: If the data can be read only once, or a loss has no gradient.
    """
    objective = distiller.objective
    norms = _gradient_norms(distiller, x, y, sample_weight)
    for name in objective.names:
        if not (math.isfinite(norms[name]) and norms[name] > 0):
            raise ValueError(
                f"The loss '{name}' cannot be balanced: its gradient has the norm {norms[name]:g} "
                'before training. Received: distillation_loss_weights="balanced". Pass numbers, or '
                "leave this loss out."
            )
    first = norms[objective.names[0]]
    # Four digits: what is printed is what is used.
    weights = [float(f"{first / norms[name]:.4g}") for name in objective.names]
    objective.distillation_loss_weights = weights
    distiller.train_function = distiller.test_function = None
    if verbose:
        found = zip(objective.names, weights, strict=True)
        shares = _shares(objective, norms).items()
        print(
            f"Balanced weights: {', '.join(f'{name} {weight:g}' for name, weight in found)}. "
            f"Share of the gradient: {', '.join(f'{n} {100 * s:.0f} %' for n, s in shares)}."
        )


def _shares(objective: Any, norms: dict[str, float]) -> dict[str, float]:
    w = objective.schedules.number(objective.student_loss_weight)
    weights = [objective.schedules.number(x) for x in objective.distillation_loss_weights]
    parts = {"student_loss": w * norms["student_loss"]}
    parts |= {n: (1 - w) * x * norms[n] for n, x in zip(objective.names, weights, strict=True)}
    total = sum(parts.values()) or 1.0
    return {name: part / total for name, part in parts.items()}


def _gradient_norms(distiller: Any, x: Any, y: Any, sample_weight: Any) -> dict[str, float]:
    """Return the mean norms of the gradients of the unweighted losses."""
    objective, student = distiller.objective, distiller.student
    if not student.built:
        raise ValueError("The student is not built. Call it on a batch first.")
    before = objective.distillation_loss_weights
    objective.distillation_loss_weights = [1.0] * len(objective.names)
    # Losses may draw numbers or remember examples: they are left as they were found.
    states = [(v, v.numpy()) for layer in objective.layers for v in layer.variables]
    names = ["student_loss", *objective.names]
    norms: list[list[float]] = []
    try:
        for inputs, labels, weights in _some_batches(x, y, sample_weight):
            signals = objective.teacher_signals(inputs)
            with tf.GradientTape(persistent=True) as tape:
                y_pred, features = objective.student_pass(student, inputs, training=False)
                losses = objective.losses(signals, labels, y_pred, features, weights)
            variables = student.trainable_variables
            norms.append([_norm(tape.gradient(losses[name], variables)) for name in names])
    finally:
        objective.distillation_loss_weights = before
        for variable, value in states:
            variable.assign(value)
    return {name: sum(row[i] for row in norms) / len(norms) for i, name in enumerate(names)}


def _norm(gradients: Any) -> float:
    known = [tf.cast(tf.convert_to_tensor(g), "float32") for g in gradients if g is not None]
    return float(tf.linalg.global_norm(known)) if known else 0.0


def _some_batches(x: Any, y: Any, sample_weight: Any) -> Iterator[tuple[Any, Any, Any]]:
    unpack = keras.utils.unpack_x_y_sample_weight
    if isinstance(x, tf.data.Dataset):
        yield from map(unpack, x.take(_BATCHES))
        return
    if isinstance(x, keras.utils.PyDataset):
        for i in range(min(_BATCHES, len(x))):
            yield _tensors(unpack(x[i]), slice(None))
        return
    leaves = keras.tree.flatten(x)
    if not all(hasattr(leaf, "shape") and len(leaf.shape) for leaf in leaves):
        raise ValueError(
            "The gradients of the losses are measured on data that `fit` reads again. Received: "
            f"x of type {type(x).__name__}, which can be read only once. Pass arrays, a "
            "tf.data.Dataset or a keras.utils.PyDataset, or weights that are numbers."
        )
    for start in range(0, min(_BATCHES * _ROWS, leaves[0].shape[0]), _ROWS):
        yield _tensors((x, y, sample_weight), slice(start, start + _ROWS))


def _tensors(structure: Any, rows: slice) -> Any:
    return keras.tree.map_structure(
        lambda leaf: None if leaf is None else tf.convert_to_tensor(leaf[rows]), structure
    )
