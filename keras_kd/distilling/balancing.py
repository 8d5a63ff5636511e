"""How large the gradients of the losses are, and weights that make them equal."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_kd.data.first_batch import first_batch
from keras_kd.data.labels import class_labels
from keras_kd.data.passes import uncounted

BALANCED = "balanced"
_BATCHES = 4
# By how much a loss is scaled, so that gradients in float16 do not become zero: the largest that
# leaves them finite.
_SCALES = (2.0**15, 2.0**10, 2.0**5, 1.0)


@dataclasses.dataclass(frozen=True)
class Data:
    """What `fit` is given to train on; its arguments, of which these decide its batches.

    Of arrays that `fit` shuffles, batches are made of rows at even distances, since they may be
    sorted; of others they are the first ones.
    """

    x: Any
    y: Any = None
    sample_weight: Any = None
    class_weight: Mapping[int, float] | None = None
    batch_size: int | None = None
    validation_split: float = 0.0
    shuffle: bool = True

    @classmethod
    def of_fit(cls, arguments: Mapping[str, Any], x: Any) -> Data:
        """Make it of the arguments of `fit`, with `x` in the place of theirs."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{**{n: arguments[n] for n in names if n in arguments}, "x": x})

    def batches(self) -> Iterator[tuple[Any, Any, Any]]:
        """Yield a few batches of inputs, labels and weights, those of classes included.

        Raises:
            ValueError: If the data can be read only once.
        """
        unpack = keras.utils.unpack_x_y_sample_weight
        found: Iterator[Any]
        if isinstance(self.x, tf.data.Dataset):
            with uncounted():
                found = map(unpack, list(self.x.take(_BATCHES)))
        elif isinstance(self.x, keras.utils.PyDataset):
            found = (unpack(self.x[i]) for i in range(min(_BATCHES, len(self.x))))
        else:
            found = self._of_arrays()
        for x, y, weight in found:
            yield _tensors((x, y, self._with_classes(y, weight)))

    def _of_arrays(self) -> Iterator[tuple[Any, Any, Any]]:
        leaves = keras.tree.flatten(self.x)
        if not all(hasattr(leaf, "shape") and len(leaf.shape) for leaf in leaves):
            raise ValueError(
                "The gradients of the losses are measured on data that `fit` reads again. Received:"
                f" x of type {type(self.x).__name__}, which can be read only once. Pass arrays, a "
                "tf.data.Dataset or a keras.utils.PyDataset, or weights that are numbers."
            )
        count = math.floor(leaves[0].shape[0] * (1.0 - (self.validation_split or 0.0)))
        size = self.batch_size or 32
        number = min(_BATCHES, -(-count // size))
        if self.shuffle:
            rows = np.linspace(0, count - 1, min(count, number * size)).astype(int)
            parts = [rows[i::number] for i in range(number)]
        else:
            parts = np.split(np.arange(min(count, number * size)), range(size, number * size, size))
        for part in parts:
            yield _rows((self.x, self.y, self.sample_weight), part)

    def _with_classes(self, y: Any, sample_weight: Any) -> Any:
        """Return the weights with those of classes, as Keras multiplies them."""
        y = class_labels(y)
        if not self.class_weight or y is None:
            return sample_weight
        labels = np.asarray(y)
        if labels.ndim > 1:
            labels = labels[..., 0] if labels.shape[-1] == 1 else labels.argmax(axis=-1)
        by_class = {int(label): weight for label, weight in self.class_weight.items()}
        found = [by_class.get(label, 1.0) for label in np.rint(labels).astype(int).ravel().tolist()]
        weights = np.reshape(np.array(found, "float32"), labels.shape)
        return weights if sample_weight is None else weights * np.asarray(sample_weight)


def gradient_shares(
    distiller: Any, x: Any, y: Any = None, sample_weight: Any = None, class_weight: Any = None
) -> dict[str, float]:
    """Return what share of the gradient each loss of a distiller has.

    The norm of each loss's gradient with respect to the student's variables, times its weight,
    divided by the sum of these products; the mean over a few batches, of arrays with rows at even
    distances. Nothing is trained.

    Args:
        distiller: A compiled `kd.Distiller`.
        x: What `fit` takes as `x`; not a generator.
        y: Labels, where `x` is arrays. Defaults to `None`.
        sample_weight: Weights, where `x` is arrays. Defaults to `None`.
        class_weight: What `fit` takes as `class_weight`. Defaults to `None`.

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
    data = Data(x, y, sample_weight, class_weight)
    return _shares(distiller.objective, _gradient_norms(distiller, data))


def balance(distiller: Any, data: Data, verbose: bool = True) -> None:
    """Weigh the distillation losses so that their gradients have the norm of the first one's.

    Args:
        distiller: A compiled and built `kd.Distiller`.
        data: What `fit` trains on.
        verbose: Whether weights and shares are printed. Defaults to `True`.

    Raises:
        ValueError: If the data can be read only once, or a loss has no gradient.
    """
    objective = distiller.objective
    norms = _gradient_norms(distiller, data)
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
        shares = ", ".join(f"{n} {100 * s:.0f} %" for n, s in _shares(objective, norms).items())
        print(f"{balanced_weights(objective)} Share of the gradient: {shares}.")


def balanced_weights(objective: Any) -> str:
    """Return a sentence with the weights that the losses of an objective have now."""
    found = zip(objective.names, objective.distillation_loss_weights, strict=True)
    return f"Balanced weights: {', '.join(f'{name} {weight:g}' for name, weight in found)}."


def _shares(objective: Any, norms: dict[str, float]) -> dict[str, float]:
    w = objective.schedules.number(objective.student_loss_weight)
    weights = [objective.schedules.number(x) for x in objective.distillation_loss_weights]
    parts = {"student_loss": w * norms["student_loss"]}
    parts |= {n: (1 - w) * x * norms[n] for n, x in zip(objective.names, weights, strict=True)}
    total = sum(parts.values()) or 1.0
    return {name: part / total for name, part in parts.items()}


def _gradient_norms(distiller: Any, data: Data) -> dict[str, float]:
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
        for inputs, labels, weights in data.batches():
            signals = objective.teacher_signals(inputs)
            with tf.GradientTape(persistent=True) as tape:
                y_pred, features = objective.student_pass(student, inputs, training=False)
                losses = objective.losses(signals, labels, y_pred, features, weights)
            norms.append([_norm(tape, losses[name], student.trainable_variables) for name in names])
    finally:
        objective.distillation_loss_weights = before
        for variable, value in states:
            variable.assign(value)
    return {name: sum(row[i] for row in norms) / len(norms) for i, name in enumerate(names)}


def _norm(tape: tf.GradientTape, loss: Any, variables: Any) -> float:
    """Return the norm of a gradient, infinite or NaN where it is so at every scale."""
    norm = 0.0
    for scale in _SCALES:
        gradients = tape.gradient(loss, variables, output_gradients=tf.constant(scale, loss.dtype))
        known = [tf.cast(tf.convert_to_tensor(g), "float32") for g in gradients if g is not None]
        norm = float(tf.linalg.global_norm(known)) / scale if known else 0.0
        if math.isfinite(norm):
            break
    return norm


def _rows(structure: Any, rows: np.ndarray) -> Any:
    def taken(leaf: Any) -> Any:
        if leaf is None or tf.is_tensor(leaf):
            return None if leaf is None else tf.gather(leaf, rows)
        return getattr(leaf, "iloc", leaf)[rows]

    return keras.tree.map_structure(taken, structure)


def _tensors(structure: Any) -> Any:
    return keras.tree.map_structure(
        lambda leaf: leaf if leaf is None or tf.is_tensor(leaf) else tf.convert_to_tensor(leaf),
        structure,
    )
