"""Ensemble: several teachers combined into one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_kd.data.first_batch import first_batch, without_losing_the_first
from keras_kd.losses.shared.logits import log_probabilities
from keras_kd.losses.shared.masks import with_masks_of
from keras_kd.losses.shared.weighting import widened
from keras_kd.models.probabilities import PROBABILITIES, last_activation, look_like_probabilities
from keras_kd.system.arguments import number
from keras_kd.system.names import one_of
from keras_kd.teachers.callable_teacher import as_teacher, supports_jit


class Ensemble:
    """Several teachers combined: the mean of their probabilities or of their logits.

    With `combine="probabilities"` it is the mean of the softened probabilities, returned as logits:
    `T log(sum_i w_i softmax(z_i / T))`, computed in log space. A loss with the same temperature `T`
    then compares the student with exactly that mean. With `combine="logits"` it is `sum_i w_i z_i`.
    The weights are divided by their sum.

    Members may be any teachers, including another ensemble. A hint names a layer of a member by
    the member's position, counted from 0: `"teacher_1/block3_out"`; `"teacher_1"` is
    the member's output. Several outputs are combined separately.

    Args:
        teachers: The members, whose outputs are logits `[batch, ..., classes]` of equal shapes.
        weights: One weight per member, not negative. Defaults to `None`, all equal.
        combine: `"probabilities"` or `"logits"`. Defaults to `"probabilities"`.
        temperature: The temperature `T`, that of the losses that read the outputs; it counts for
            `combine="probabilities"`. Defaults to `1.0`.
        from_logits: Whether the members return logits. If `False`, the logarithms of their
            probabilities are used as logits. Defaults to `True`.
        name: Name of the ensemble. Defaults to `"ensemble"`.

    Raises:
        ValueError: If there is no member, one cannot be a teacher or ends in a softmax although
            `from_logits` is `True`, or an argument is out of range.

    Example:

    ```python
    teachers = [keras.saving.load_model(path) for path in paths]
    distiller = keras_kd.Distiller(
        keras_kd.teachers.Ensemble(teachers, temperature=4.0),
        student,
        [
            keras_kd.losses.KLDivergence(temperature=4.0),
            keras_kd.Hint("teacher_1/block3_out", "block2_out"),
        ],
    )
    ```

    References:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531 (both
        means, of probabilities and of logits).
    """

    def __init__(
        self,
        teachers: Sequence[Callable[..., Any]],
        weights: Sequence[float] | None = None,
        combine: str = "probabilities",
        temperature: float = 1.0,
        from_logits: bool = True,
        name: str = "ensemble",
    ) -> None:
        if not isinstance(teachers, (list, tuple)) or not teachers:
            raise ValueError(
                "An Ensemble takes a list of one teacher or more. Received: "
                f"{type(teachers).__name__}: {teachers!r}."
            )
        one_of("combine", combine, ("probabilities", "logits"), "Ensemble")
        self.teachers = list(teachers)
        self.layers = [
            _Member(as_teacher(teacher), f"teacher_{i}") for i, teacher in enumerate(teachers)
        ]
        self.shares = _shares(weights, len(teachers))
        self.combine = combine
        self.temperature = float(number("temperature", temperature, above=0, owner="Ensemble"))
        self.from_logits = from_logits
        self.name = name
        if from_logits:
            for member in self.layers:
                for activation in keras.tree.flatten(last_activation(member.teacher)):
                    if activation in PROBABILITIES:
                        raise ValueError(_ends_in(member, activation))

    @property
    def members(self) -> list[Any]:
        """The members as they are called."""
        return [member.teacher for member in self.layers]

    @property
    def weights(self) -> list[Any]:
        """The weights of every member that has some."""
        return [w for teacher in self.teachers for w in getattr(teacher, "weights", None) or []]

    @property
    def supports_jit(self) -> bool:
        """Whether XLA is known to be able to compile every member."""
        return all(supports_jit(member) for member in self.members)

    def check(self, inputs: Any) -> None:
        """Refuse members whose outputs on a first batch cannot be combined.

        Args:
            inputs: A batch of inputs.

        Raises:
            ValueError: If their structures or shapes differ, or they are probabilities although
                `from_logits` is `True`, or the other way around.
        """
        outputs = []
        for member in self.layers:
            check = getattr(member.teacher, "check", None)
            if callable(check):
                check(inputs)
            outputs.append(member(inputs))
            for output in keras.tree.flatten(outputs[-1]):
                self._check_units(member, output)
                values = ops.convert_to_numpy(output)
                probable = not _is_one_number(output) and look_like_probabilities(values)
                if probable and self.from_logits:
                    raise ValueError(_ends_in(member, "softmax"))
                if not probable and not self.from_logits:
                    raise ValueError(
                        f"Member '{member.name}' ({_name(member)}) of the ensemble does not "
                        "return probabilities, though from_logits=False. If it returns logits, "
                        "use Ensemble(..., from_logits=True)."
                    )
        _check_equal(self.layers, outputs)

    def __call__(self, x: Any) -> Any:
        """Return the combined logits for a batch of inputs, in float32 or wider."""
        outputs = [member(x) for member in self.layers]
        _check_equal(self.layers, outputs)
        for output in keras.tree.flatten(outputs[0]):
            self._check_units(self.layers[0], output)
        return keras.tree.map_structure(self._combine, *outputs)

    def evaluate(
        self, x: Any, y: Any = None, *, loss: Any = None, metrics: Sequence[Any] | None = None,
        **arguments: Any,
    ) -> dict[str, float]:  # fmt: skip
        """Return loss and metrics of the combined logits on data with labels.

        Args:
            x: Inputs, or a dataset of `(x, y)`, as for `keras.Model.evaluate`.
            y: Labels, where `x` is arrays. Defaults to `None`.
            loss: A loss on logits. Defaults to `None`: metrics alone.
            metrics: Metrics of the logits, as for `keras.Model.compile`. Defaults to `None`: the
                accuracy.
            **arguments: Further arguments of `keras.Model.evaluate`, such as `batch_size`.

        Returns:
            The values by name.

        Raises:
            ValueError: As `check`, on a first batch; or if the labels are of several classes per
                example and `metrics` is `None`.

        Example:

        ```python
        ensemble = keras_kd.teachers.Ensemble(teachers)
        print(ensemble.evaluate(x_test, y_test)["accuracy"])
        ```
        """
        x, batch = without_losing_the_first(x)
        batch = batch or first_batch(x, y)
        if batch is not None:
            self.check(batch.inputs)
            if metrics is None:
                _check_labels(batch.labels, self(batch.inputs))
        model = _Evaluated(self)
        model.compile(loss=loss, metrics=[accuracy] if metrics is None else list(metrics))
        results = model.evaluate(x, y, return_dict=True, **arguments)
        return {name: value for name, value in results.items() if loss or name != "loss"}

    def _check_units(self, member: _Member, output: Any) -> None:
        if _is_one_number(output) and (self.combine == "probabilities" or not self.from_logits):
            raise ValueError(
                f"Member '{member.name}' ({_name(member)}) of the ensemble returns one number per "
                "example, whose softmax is always 1. Let the members return logits and use "
                'Ensemble(..., combine="logits").'
            )

    def _combine(self, *outputs: Any) -> Any:
        return with_masks_of(self._combined([widened(output) for output in outputs]), *outputs)

    def _combined(self, wide: Sequence[Any]) -> Any:
        logits = wide if self.from_logits else [log_probabilities(output) for output in wide]
        if self.combine == "logits":
            return sum(w * z for w, z in zip(self.shares, logits, strict=True) if w)
        terms = [
            ops.log_softmax(z / self.temperature, axis=-1) + math.log(w)
            for w, z in zip(self.shares, logits, strict=True)
            if w
        ]
        return self.temperature * ops.logsumexp(ops.stack(terms), axis=0)


class _Evaluated(keras.Model):
    def __init__(self, ensemble: Ensemble) -> None:
        # The members decide what their inputs are rounded to.
        super().__init__(name=ensemble.name, autocast=False)
        # Keras would take the members for layers of this model.
        object.__setattr__(self, "ensemble", ensemble)
        self.built = True

    def call(self, x: Any) -> Any:
        return self.ensemble(x)

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        # Keras refuses to evaluate without a loss.
        return ops.zeros(()) if self.loss is None else super().compute_loss(*args, **kwargs)


def accuracy(y: Any, logits: Any) -> Any:
    """Return which answers are right: of one unit above 0, else the largest logit."""
    if logits.shape[-1] == 1:
        return keras.metrics.binary_accuracy(y, logits, threshold=0.0)
    if tuple(y.shape) == tuple(logits.shape):
        return keras.metrics.categorical_accuracy(y, logits)
    return keras.metrics.sparse_categorical_accuracy(y, logits)


def _check_labels(labels: Any, outputs: Any) -> None:
    """Refuse labels of several classes per example, whose accuracy is another one."""
    if keras.tree.is_nested(outputs) or keras.tree.is_nested(labels) or labels is None:
        return
    values = np.asarray(labels)
    if values.ndim < 2 or values.shape[-1] < 2 or values.shape[1:] != tuple(outputs.shape[1:]):
        return
    if not np.allclose(values.sum(axis=-1), 1.0, atol=1e-3):
        raise ValueError(
            "The labels hold several classes per example, or none, for which an accuracy of the "
            "largest logit means nothing. Pass `metrics`, such as "
            "[keras.metrics.BinaryAccuracy(threshold=0.0)]."
        )


class _Member:
    """A member of an ensemble, under its place's name."""

    def __init__(self, teacher: Any, name: str) -> None:
        self.teacher = teacher
        self.name = name

    @property
    def layers(self) -> list[Any]:
        return self.teacher.layers

    def call(self, x: Any) -> Any:
        return self.teacher(x, training=False)

    def __call__(self, x: Any) -> Any:
        # A hint at the member itself is read from `call`, as with a layer.
        return self.call(x)


def _name(member: _Member) -> str:
    return member.teacher.name


def _is_one_number(output: Any) -> bool:
    return len(output.shape) < 2 or output.shape[-1] == 1


def _ends_in(member: _Member, activation: str) -> str:
    return (
        f"Member '{member.name}' ({_name(member)}) of the ensemble ends in {activation}, but an "
        f"Ensemble combines logits: it would take the {activation} twice. Remove the member's last "
        "activation, or, if every member returns probabilities, use "
        "Ensemble(..., from_logits=False)."
    )


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    if weights is None:
        return [1.0 / count] * count
    values = np.asarray(weights, "float64")
    if values.shape != (count,):
        raise ValueError(
            f"An Ensemble of {count} teachers takes {count} weights. Received: {weights!r}."
        )
    if not np.isfinite(values).all() or (values < 0).any() or values.sum() <= 0:
        raise ValueError(
            "The weights of an Ensemble must be numbers that are not negative and not all zero. "
            f"Received: {weights!r}."
        )
    return (values / values.sum()).tolist()


def _check_equal(members: Sequence[_Member], outputs: Sequence[Any]) -> None:
    first = members[0]
    for member, output in zip(members[1:], outputs[1:], strict=True):
        try:
            keras.tree.assert_same_structure(outputs[0], output)
            pairs = zip(keras.tree.flatten(outputs[0]), keras.tree.flatten(output), strict=True)
            equal = all(tuple(a.shape[1:]) == tuple(b.shape[1:]) for a, b in pairs)
        except (TypeError, ValueError):
            equal = False
        if not equal:
            shapes = [
                keras.tree.map_structure(lambda part: tuple(part.shape[1:]), structure)
                for structure in (outputs[0], output)
            ]
            raise ValueError(
                "The members of an ensemble must return outputs of equal shape, but (without the "
                f"batch) '{first.name}' ({_name(first)}) returns {shapes[0]} and "
                f"'{member.name}' ({_name(member)}) {shapes[1]}. Adapt them: "
                "Ensemble([first, lambda x: keras.ops.take(second(x), classes, axis=-1)])."
            )
