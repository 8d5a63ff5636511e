"""CRD: each sample is contrasted with many others, across teacher and student."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_kd.losses.shared.base import DistillationLoss
from keras_kd.losses.shared.norms import l2_normalize
from keras_kd.losses.shared.parameters import (
    Shape,
    built_parameters,
    number_of_values,
    several_replicas,
    torch_default,
    torch_default_bias,
)
from keras_kd.losses.shared.phase import is_training
from keras_kd.losses.shared.relation import flatten
from keras_kd.system.arguments import number, scheduled

EPSILON = 1e-7


def contrastive(positive: Any, negative: Any, examples: int) -> Any:
    """Return `-log D(positive) - sum log(1 - D(negative))` with `D = P / (P + m / examples)`.

    `m` is the number of negatives, `m / examples` their density under uniform noise; `1e-7` is
    added to the denominators, as in the authors' code.

    Args:
        positive: `log P` of the matching pair, `[batch]`.
        negative: `log P` of the other pairs, `[batch, m]`.
        examples: Number of examples in the memory bank.

    Returns:
        Tensor `[batch]`.
    """
    noise = negative.shape[-1] / examples
    log_pair = -ops.log1p((noise + EPSILON) * ops.exp(-positive))
    log_noise = -ops.log1p((ops.exp(negative) + EPSILON) / noise)
    return -(log_pair + ops.sum(log_noise, axis=-1))


class MemoryBank(keras.layers.Layer):
    """The embeddings of all training examples, and the heads that make them.

    Args:
        examples: Number of training examples.
        dimension: Length of an embedding.
        negatives: Number of negatives drawn for each example.
        momentum: Share of an embedding that is kept when its example is seen again.
        seed: Seed of the draws.
    """

    def __init__(
        self, examples: int, dimension: int, negatives: int, momentum: float, seed: int | None
    ) -> None:
        super().__init__(dtype="float32", name="memory_bank")
        self.examples = examples
        self.dimension = dimension
        self.negatives = negatives
        self.momentum = momentum
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, teacher_values: int, student_values: int) -> None:
        """Make the variables for features of these lengths."""
        self.teacher_head = self._head(teacher_values, "teacher_head")
        self.student_head = self._head(student_values, "student_head")
        limit = 1.0 / math.sqrt(self.dimension / 3.0)
        self.teacher_bank, self.student_bank = (
            self.add_weight(
                shape=(self.examples, self.dimension),
                initializer=keras.initializers.RandomUniform(-limit, limit),
                trainable=False,
                name=f"{side}_bank",
            )
            for side in ("teacher", "student")
        )
        self.labels = self.add_weight(
            shape=(self.examples,),
            initializer=keras.initializers.Constant(-1),
            dtype="int32",
            trainable=False,
            name="labels",
        )
        # The constants by which exp(similarity / temperature) becomes a probability.
        self.normalizers = self.add_weight(
            shape=(2,),
            initializer=keras.initializers.Constant(-1.0),
            trainable=False,
            name="normalizers",
        )
        self.built = True

    def _head(self, values: int, name: str) -> keras.layers.Dense:
        head = keras.layers.Dense(
            self.dimension,
            kernel_initializer=torch_default(),
            bias_initializer=torch_default_bias(values),
            dtype="float32",
            name=name,
        )
        head.build((None, values))
        return head

    def draw_negatives(self, index: Any, label: Any = None, batch: Any = None) -> Any:
        """Draw examples to be told from those of the batch, uniformly and with replacement.

        Args:
            index: Indices of the batch's examples, `[batch]`; `None` for examples that are not in
                the bank, for which the same are drawn each time.
            label: Their class indices, `[batch]`. Defaults to `None`.
            batch: The number of examples, where they have no index. Defaults to `None`.

        Returns:
            Indices `[batch, negatives]`: of other examples; of examples of other classes, as far
            as labels have been seen, where `label` is given.
        """
        batch = batch if index is None else ops.shape(index)[0]
        seed = 0 if index is None else self.seed_generator
        draws = keras.random.randint((batch, self.negatives), 0, 2**31 - 1, seed=seed)
        if label is None and index is None:
            return draws % self.examples
        if label is None:
            others = draws % max(self.examples - 1, 1)
            return others + ops.cast(others >= ops.expand_dims(index, -1), "int32")
        labels = ops.convert_to_tensor(self.labels)
        if index is not None:
            labels = tf.tensor_scatter_nd_update(labels, ops.expand_dims(index, -1), label)
        # Examples sorted by class: those of one class are a run, which the draws skip.
        order = ops.argsort(labels)
        ordered = ops.take(labels, order)
        start = tf.searchsorted(ordered, label, side="left")
        count = tf.searchsorted(ordered, label, side="right") - start
        rest = self.examples - count
        start, count, rest = (ops.expand_dims(x, -1) for x in (start, count, rest))
        places = draws % ops.where(rest > 0, rest, self.examples)
        skip = ops.logical_and(places >= start, rest > 0)
        return ops.take(order, places + ops.where(skip, count, 0))

    def remember(
        self, student: Any, teacher: Any, index: Any, label: Any, normalizers: Any
    ) -> None:
        """Move the bank's embeddings of the batch's examples towards the new ones."""
        for bank, new in ((self.student_bank, student), (self.teacher_bank, teacher)):
            old = ops.take(bank, index, axis=0)
            moved = l2_normalize(self.momentum * old + (1.0 - self.momentum) * new)
            bank.value.scatter_update(tf.IndexedSlices(moved, index))
        if label is not None:
            self.labels.value.scatter_update(tf.IndexedSlices(label, index))
        self.normalizers.assign(normalizers)


@keras.saving.register_keras_serializable(package="keras_kd")
class CRD(DistillationLoss):
    """Contrastive representation distillation.

    Linear heads embed the features of teacher and student as unit vectors. A memory bank keeps the
    embeddings of every training example. The student's embedding of an example must be
    closer to the teacher's of the same example than to the teacher's of `negatives` others, and
    the reverse; both losses are summed. The bank is updated only with batches from which gradients
    are taken. Heads and bank are not part of the student. In evaluation the same example is that of
    the batch, and only the others are from the bank.

    Labels of training data must hold the index of the example: `{"index": index}` or
    `{"index": index, "label": label}`, with `index` from 0 to `examples - 1` and the class index
    `label`. With class labels, negatives are of other classes, as in the authors' code; otherwise
    they are any other examples.

    The first batch fixes the normalizing constants, as in the authors' code. One replica only.

    Args:
        examples: Number of training examples.
        negatives: Negatives drawn for each example. Defaults to `16384`.
        dimension: Length of an embedding. Defaults to `128`.
        temperature: Divides similarities, above 0. Defaults to `0.07`.
        momentum: Share of a bank's embedding that is kept when its example is seen again, from 0
            to below 1. Defaults to `0.5`.
        seed: Seed of the draws. Defaults to `None`, Keras's global seed.
        name: Name of the loss. Defaults to `"crd"`.

    Raises:
        ValueError: If an argument is out of range; when called, if the loss is not built, labels
            lack an index, or the strategy has several replicas.

    Example:

    ```python
    hint = keras_kd.Hint(
        "pool", "pool", loss=keras_kd.losses.CRD(examples=60_000, negatives=4096)
    )
    ```

    Reference:
        Tian et al., Contrastive Representation Distillation, 2020, arXiv:1910.10699; constants and
        updates are RepDistiller's.
    """

    equal_shapes = False
    reads_features = True
    mixes_positions = True

    def __init__(
        self,
        examples: int,
        negatives: int = 16384,
        dimension: int = 128,
        temperature: float = 0.07,
        momentum: float = 0.5,
        seed: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.examples = number("examples", examples, least=1, whole=True, owner="CRD")
        self.negatives = number("negatives", negatives, least=1, whole=True, owner="CRD")
        self.dimension = number("dimension", dimension, least=1, whole=True, owner="CRD")
        self.temperature = scheduled("temperature", temperature, above=0, owner="CRD")
        self.momentum = number("momentum", momentum, least=0, below=1, owner="CRD")
        self.seed = seed

    def build(self, teacher_shape: Shape, student_shape: Shape) -> None:
        """Make the heads and the memory bank.

        Args:
            teacher_shape: Shape of the teacher's feature, batch first, otherwise known.
            student_shape: Shape of the student's feature, likewise.
        """
        parameters = MemoryBank(
            self.examples, self.dimension, self.negatives, self.momentum, self.seed
        )
        parameters.build(
            number_of_values("CRD", teacher_shape, "teacher"),
            number_of_values("CRD", student_shape, "student"),
        )
        self.parameters = parameters

    def call(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        """Return the loss of each sample, `[batch]`."""
        bank: MemoryBank = built_parameters(self)
        if several_replicas():
            raise ValueError(
                "CRD keeps one memory bank, which several replicas cannot update. Train on one "
                "device, or use a loss without a bank, such as RKD."
            )
        v_student = l2_normalize(bank.student_head(flatten(student)))
        v_teacher = l2_normalize(bank.teacher_head(flatten(teacher)))
        index, label = _index_and_label(labels)
        banks = (bank.teacher_bank, bank.student_bank)
        if is_training():
            index = _checked(index, self.examples)
            negatives = bank.draw_negatives(index, label)
            candidates = ops.concatenate([ops.expand_dims(index, -1), negatives], axis=1)
        else:
            candidates = bank.draw_negatives(None, label, ops.shape(student)[0])
        scores = [
            self._scores(v, other, candidates)
            for v, other in zip((v_student, v_teacher), banks, strict=True)
        ]
        if not is_training():  # the examples are not those of the bank, whatever their index
            pair = ops.sum(v_student * v_teacher, -1, keepdims=True) / self.temperature
            scores = [ops.concatenate([pair, s], axis=1) for s in scores]
        means = ops.stack([ops.mean(ops.exp(s)) * self.examples for s in scores])
        known = ops.convert_to_tensor(bank.normalizers)
        normalizers = ops.stop_gradient(ops.where(known > 0, known, means))
        values: Any = 0.0
        if is_training():  # XLA drops the check of `_checked`; there the loss is NaN
            inside = ops.logical_and(index >= 0, index < self.examples)
            values = ops.where(inside, 0.0, math.nan)
        for i, s in enumerate(scores):
            log_p = s - ops.log(normalizers[i])
            values = values + contrastive(log_p[:, 0], log_p[:, 1:], self.examples)

        @tf.custom_gradient
        def remembered(x: Any) -> tuple[Any, Any]:
            def gradient(upstream: Any) -> Any:
                bank.remember(embeddings[0], embeddings[1], index, label, normalizers)
                return upstream

            return tf.identity(x), gradient

        # Gradients are taken in training only: the bank is updated on their way back.
        embeddings = [ops.stop_gradient(v) for v in (v_student, v_teacher)]
        return ops.cast(remembered(values), student.dtype)

    def _scores(self, embedding: Any, bank: Any, candidates: Any) -> Any:
        similarities = ops.matmul(embedding, ops.transpose(ops.convert_to_tensor(bank)))
        return tf.gather(similarities, candidates, batch_dims=1) / self.temperature


def _index_and_label(labels: Any) -> tuple[Any, Any]:
    if not is_training() and not isinstance(labels, Mapping):
        labels = {"label": labels}
    if is_training() and (not isinstance(labels, Mapping) or labels.get("index") is None):
        received = list(labels) if isinstance(labels, Mapping) else type(labels).__name__
        raise ValueError(
            "CRD needs the index of every training sample. Received: labels with "
            f'{received}. Pass labels {{"index": index, "label": label}}, where `index` counts the '
            "training samples from 0."
        )
    index, label = (
        None
        if labels.get(key) is None
        else ops.reshape(ops.cast(ops.convert_to_tensor(labels[key]), "int32"), (-1,))
        for key in ("index", "label")
    )
    return index, label


def _checked(index: Any, examples: int) -> Any:
    message = f"CRD(examples={examples}): an index is not from 0 to {examples - 1}."
    check = tf.debugging.assert_equal(
        tf.reduce_all((index >= 0) & (index < examples)), True, message=message
    )
    with tf.control_dependencies([] if check is None else [check]):
        return tf.identity(index)
