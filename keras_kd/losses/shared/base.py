"""DistillationLoss: the base class of all losses."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_kd.losses.shared.masks import (
    get_keras_mask,
    is_of_positions,
    same_shape,
    zero_masked,
)
from keras_kd.losses.shared.pooling import pool_to_smaller
from keras_kd.losses.shared.weighting import weighted_mean, weights_by_sample
from keras_kd.losses.top_k_logits import TopKLogits
from keras_kd.system.arguments import constructor_arguments
from keras_kd.system.names import SuggestsArguments, snake_case
from keras_kd.system.remaking import made_again


class DistillationLoss(SuggestsArguments):
    """A loss between what a teacher and a student give for the same batch.

    A loss knows tensors only. Half precision is widened to float32, float64 stays; the teacher
    receives no gradient. A subclass writes `call`, which returns the values that are averaged; the
    average is Keras's `"sum_over_batch_size"`: the sum of weight times value over the number of
    values. Positions that the student's Keras mask excludes are excluded from that number; a mask
    of the teacher's is used where the student has none, or one of other positions. Of several
    layers each has its own mask where positions are mixed; elsewhere the first mask counts.
    Arguments of a subclass's constructor that are attributes of the same names are saved with it.

    Attributes:
        equal_shapes: Whether the tensors are compared element by element. `False` for losses whose
            teacher and student may differ in width or size.
        equal_sides: Whether feature maps need equal sides, too; a `Hint` pools the larger one then.
            It counts where `equal_shapes`. `False` for losses between the channels of a map.
        uses_logits: Whether the tensors are read as logits.
        uses_labels: Whether labels are needed.
        several_layers: Whether teacher and student are lists of tensors, one per layer.
        reads_features: Whether the tensors are features: weights of positions that do not fit the
            features are then averaged to one weight per sample.
        pools_maps: Whether the larger of two maps is average-pooled to the sides of the smaller
            first. Masked positions do not count.
        mixes_positions: Whether positions of a sample are combined before they are compared:
            masked positions are then set to zero on both sides.
        masks_of_sides: Whether `compute_loss` receives a pair of masks, of the teacher and of the
            student, in place of one.
        supports_jit: Whether XLA can compile the loss.
        reads_top_k: Whether the teacher's tensor may be a `TopKLogits`.
        scheduled_arguments: Names of the attributes that may be functions of the epoch.
        parameters: A layer with the loss's variables, after `build`; `None` on losses that have
            none.

    Args:
        name: Name of the loss in the logs. Defaults to the class's name in snake case.

    Example:

    ```python
    @keras.saving.register_keras_serializable(package="my_package")
    class L1(keras_kd.losses.DistillationLoss):
        def call(self, teacher, student, labels=None):
            return keras.ops.mean(keras.ops.abs(teacher - student), axis=-1)
    ```
    """

    equal_shapes: bool = True
    equal_sides: bool = True
    uses_logits: bool = False
    uses_labels: bool = False
    several_layers: bool = False
    reads_features: bool = False
    pools_maps: bool = False
    mixes_positions: bool = False
    masks_of_sides: bool = False
    reads_top_k: bool = False
    supports_jit: Any = True
    scheduled_arguments: Sequence[str] = ("temperature",)
    parameters: keras.layers.Layer | None = None

    def __init__(self, name: str | None = None) -> None:
        self.name = name or snake_case(type(self).__name__)

    def __call__(
        self, teacher: Any, student: Any, labels: Any = None, sample_weight: Any = None
    ) -> Any:
        """Return the loss of one batch.

        Args:
            teacher: What the teacher gave: a tensor, batch first, or a list of tensors.
            student: What the student gave.
            labels: Labels of the batch, for losses that use them; class indices or one-hot, or a
                dictionary that holds them as `"label"`. Defaults to `None`.
            sample_weight: Weights, of shape `[batch]` or of the leading axes of the values.
                Defaults to `None`.

        Returns:
            A scalar, float32 or wider.

        Raises:
            ValueError: If the shapes do not fit each other, or labels are missing.
            TypeError: If a list of tensors is given where one is expected, or the reverse.
        """
        if self.pools_maps:
            self._refuse_lists(teacher, student)
            teacher, student = pool_to_smaller(teacher, student)
        sides = [x if _is_list(x) else [x] for x in (teacher, student)]
        masks = [_mask_of_pair(t, s) for t, s in zip(*sides, strict=False)]
        mask = next((m for m in masks if m is not None), None)
        of_sides = [
            [_mask_of_positions(x, m) for x, m in zip(side, masks, strict=False)] for side in sides
        ]
        teacher, student = self._prepare(teacher, student)
        self.check_shapes(teacher, student)
        if self.uses_labels:
            labels = self._labels(labels)
        if mask is not None and self.mixes_positions:
            teacher, student = (
                [zero_masked(x, m) for x, m in zip(side, of_side, strict=True)]
                if self.several_layers
                else zero_masked(side, of_side[0])
                for side, of_side in zip((teacher, student), of_sides, strict=True)
            )
            mask = None
        dtype = (student[0] if self.several_layers else student).dtype
        if self.masks_of_sides:
            mask = tuple(of_side[0] for of_side in of_sides)
        loss = self._with_schedules_in(keras.backend.standardize_dtype(dtype))
        return loss.compute_loss(teacher, student, labels, sample_weight, mask)

    def _with_schedules_in(self, dtype: str) -> DistillationLoss:
        """Return the loss, with the float32 values of its schedules in the tensors' own type."""
        values = {name: getattr(self, name, None) for name in self.scheduled_arguments}
        values = {name: value for name, value in values.items() if tf.is_tensor(value)}
        if dtype == "float32" or not values:
            return self
        wide = copy.copy(self)
        vars(wide).update({name: ops.cast(value, dtype) for name, value in values.items()})
        return wide

    def compute_loss(
        self, teacher: Any, student: Any, labels: Any, sample_weight: Any, mask: Any
    ) -> Any:
        """Reduce the values of `call` to a scalar.

        Args:
            teacher: The teacher's tensor, widened and without a gradient.
            student: The student's tensor, widened.
            labels: Labels, or `None`.
            sample_weight: Weights, or `None`.
            mask: Mask of the positions that count, or `None`; a pair where `masks_of_sides`.
        """
        values = self.call(teacher, student, labels)
        if self.reads_features and sample_weight is not None:
            sample_weight = weights_by_sample(sample_weight, values)
        return weighted_mean(values, sample_weight, mask)

    def call(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        """Return the unreduced values, batch first."""
        raise NotImplementedError(f"{type(self).__name__} must implement call().")

    def check_shapes(self, teacher: Any, student: Any) -> None:
        """Refuse tensors that cannot be compared.

        Raises:
            ValueError: If they differ in shape although they are compared element by element.
        """
        if not self.equal_shapes:
            return
        if same_shape(teacher.shape, student.shape):
            require_equal_sizes(self, teacher, student)
            return
        advice = (
            "Name the layers in a keras_kd.Hint, which projects the student's feature."
            if self.reads_features
            else "Use a student with as many outputs as the teacher."
        )
        raise ValueError(
            f"{type(self).__name__} compares teacher and student element by element, but the "
            f"teacher has shape {tuple(teacher.shape)} and the student {tuple(student.shape)}. "
            f"{advice}"
        )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor that are attributes of the same names."""
        names = ["name", *constructor_arguments(type(self))]
        return {name: getattr(self, name) for name in names if hasattr(self, name)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> DistillationLoss:
        """Make a loss from `get_config()`."""
        return cls(
            **{
                key: keras.saving.deserialize_keras_object(value)
                if isinstance(value, Mapping) and "class_name" in value
                else value
                for key, value in config.items()
            }
        )

    def fresh(self) -> DistillationLoss:
        """Return a loss with the same arguments, whose own variables are not made yet."""
        made: DistillationLoss = made_again(self)
        return made

    def __repr__(self) -> str:
        config = self.get_config()
        name = config.pop("name")
        if name != snake_case(type(self).__name__):
            config["name"] = name
        arguments = ", ".join(
            f"{key}={value!r}" for key, value in config.items() if value is not None
        )
        return f"{type(self).__name__}({arguments})"

    def _prepare(self, teacher: Any, student: Any) -> tuple[Any, Any]:
        self._refuse_lists(teacher, student)
        layers = [
            [
                ops.convert_to_tensor(tensor)
                for tensor in (value if self.several_layers else [value])
            ]
            for value in (teacher, student)
        ]
        dtypes = {keras.backend.standardize_dtype(x.dtype) for side in layers for x in side}
        dtype = "float64" if "float64" in dtypes else "float32"
        teacher = [ops.stop_gradient(ops.cast(tensor, dtype)) for tensor in layers[0]]
        student = [ops.cast(tensor, dtype) for tensor in layers[1]]
        if not self.several_layers:
            return teacher[0], student[0]
        return teacher, student

    def _refuse_lists(self, teacher: Any, student: Any) -> None:
        if isinstance(teacher, TopKLogits):
            raise TypeError(top_k_message(self))
        for side, value in (("teacher", teacher), ("student", student)):
            if _is_list(value) != self.several_layers:
                expected = (
                    "a list of tensors, one per layer" if self.several_layers else "one tensor"
                )
                received = f"{len(value)} tensors" if _is_list(value) else "one tensor"
                raise TypeError(
                    f"{type(self).__name__} takes {expected} from the {side}. Received: "
                    f"{received}. " + _list_advice(self.several_layers)
                )

    def _labels(self, labels: Any) -> Any:
        if isinstance(labels, Mapping):
            labels = labels.get("label")
        if labels is None:
            raise ValueError(
                f"{type(self).__name__} needs labels. Received: labels=None. Train on data of "
                "(x, y), or use a loss without labels, such as KLDivergence."
            )
        return ops.convert_to_tensor(labels)


UNEQUAL_SIZES = "compares tensors of equal shape, but at run time they differ"


def require_equal_sizes(loss: Any, teacher: Any, student: Any, axes: int | None = None) -> None:
    """Refuse sizes that only a step knows, and that differ there: they would be broadcast.

    Two unknown batch sizes are those of one batch. A step that is compiled by XLA does not look.

    Args:
        loss: The loss.
        teacher: A tensor of the teacher.
        student: The tensor of the student that it is compared with.
        axes: Number of leading axes that are compared. Defaults to `None`, all of those that both
            have.

    Raises:
        tf.errors.InvalidArgumentError: In the step, if they differ.
    """
    axes = min(len(x.shape) for x in (teacher, student)) if axes is None else axes
    sides = [tuple(x.shape)[:axes] for x in (teacher, student)]
    unknown = [i for i, pair in enumerate(zip(*sides, strict=False)) if None in pair]
    if not unknown or (unknown == [0] and sides[0][0] == sides[1][0]):
        return
    if teacher is student or not (tf.is_tensor(teacher) and tf.is_tensor(student)):
        return  # the latter are specifications of tensors
    sizes = [tf.shape(x)[:axes] for x in (teacher, student)]
    equal = tf.reduce_all(tf.equal(*sizes))
    tf.debugging.Assert(equal, [f"{type(loss).__name__} {UNEQUAL_SIZES}:", *sizes])


def top_k_message(loss: Any) -> str:
    """Return the sentence that refuses top-k logits for a loss that needs them all."""
    return (
        f"{type(loss).__name__} needs the logits of all classes. Received: the teacher's top-k "
        "logits. Keep all logits, or use a loss that accepts top-k, such as KLDivergence."
    )


def _mask_of_pair(teacher: Any, student: Any) -> Any:
    mask = get_keras_mask(student)
    return get_keras_mask(teacher) if mask is None else mask


def _mask_of_positions(tensor: Any, mask: Any) -> Any:
    """Return `mask`, or the tensor's own where that is of the tensor's positions and `mask` not."""
    own = get_keras_mask(tensor)
    sizes = (*tensor.shape[1 : len(mask.shape)], *mask.shape[1:]) if own is not None else ()
    if own is None or (None not in sizes and is_of_positions(mask, tensor)):
        return mask
    return own


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and any(hasattr(part, "shape") for part in value)


def _list_advice(several_layers: bool) -> str:
    if several_layers:
        return 'Name several layers in the Hint: Hint(["block1", "block2"], ["block1", "block2"]).'
    return "Use one Hint per layer, or one loss per output."
