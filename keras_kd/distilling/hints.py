"""Hint: which layer of the student is taught by which layer of the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_kd.distilling.projections import NORMALIZATIONS, OrthogonalProjection
from keras_kd.losses.fitnet import FitNet
from keras_kd.losses.shared.base import DistillationLoss
from keras_kd.losses.shared.masks import get_keras_mask, set_keras_mask
from keras_kd.losses.shared.pooling import pool_to_smaller
from keras_kd.system.names import SuggestsArguments, scope_name
from keras_kd.system.remaking import made_again

Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable(package="keras_kd")
class Hint(SuggestsArguments):
    """Teaches a layer of the student by a layer of the teacher.

    Both layers are read from the forward pass of each model. If the loss compares them element by
    element and their shapes differ, a projection follows the student's layer: the larger of two
    maps is average-pooled to the size of the smaller, and a 1x1 convolution (a dense layer along
    the last axis) brings the student's channels to the teacher's. The projection is trained with
    the student and is not part of it afterwards. A layer given as `projection` runs in training
    mode while the student trains.

    A hint keeps its projection and the variables of its loss: a second `Distiller` with the same
    hint continues from them. Make a new hint for a separate run.

    Args:
        teacher_layer: Name of a teacher layer; `"backbone/block3_out"` for a layer inside a
            nested model, `"attention/softmax"` for one inside a layer; a list of names for losses
            over several layers.
        student_layer: The same for the student.
        loss: A loss of `keras_kd.losses` on features. Defaults to `FitNet()`.
        projection: `"auto"`; `"orthogonal"`, a matrix with orthonormal rows that keeps the inner
            products of the student's features; `None` for none; or a layer to apply after the
            student's layer, for any loss. Defaults to `"auto"`.
        normalize: What is done to the teacher's feature before it is compared: `"standardize"`
            removes mean and deviation of each channel over the batch, `"whiten"` the covariance
            of the channels as well. Defaults to `None`, nothing.
        name: Name of the loss in the logs. Defaults to the loss's name and that of the student's
            layer, without the models around it, or to the loss's name alone where that is long.

    Example:

    ```python
    hint = keras_kd.Hint("block4_out", "block2_out", loss=keras_kd.losses.FitNet())
    distiller = keras_kd.Distiller(teacher, student, [keras_kd.losses.KLDivergence(), hint])
    ```

    VkD standardizes for classification and detection, and whitens for generation:

    ```python
    hint = keras_kd.Hint(
        "block4_out", "block2_out", projection="orthogonal", normalize="standardize"
    )
    ```

    References:
        Romero et al., FitNets: Hints for Thin Deep Nets, 2015, arXiv:1412.6550.
        Miles et al., VkD: Improving Knowledge Distillation using Orthogonal Projections, 2024,
        arXiv:2403.06213 (`"orthogonal"`, `normalize`).
    """

    def __init__(
        self,
        teacher_layer: str | Sequence[str],
        student_layer: str | Sequence[str],
        loss: DistillationLoss | None = None,
        projection: str | keras.layers.Layer | None = "auto",
        name: str | None = None,
        normalize: str | None = None,
    ) -> None:
        self.teacher_layer = _names(teacher_layer, "teacher_layer")
        self.student_layer = _names(student_layer, "student_layer")
        self.loss = FitNet() if loss is None else loss
        if not isinstance(self.loss, DistillationLoss):
            raise TypeError(
                "`loss` of a Hint must be a loss of `keras_kd.losses`, such as "
                f"`keras_kd.losses.FitNet()`. Received: {loss!r}."
            )
        if projection not in ("auto", "orthogonal", None) and not isinstance(
            projection, keras.layers.Layer
        ):
            raise TypeError(
                '`projection` must be "auto", "orthogonal", None or a Keras layer. Received: '
                f"{projection!r}."
            )
        if normalize is not None and normalize not in NORMALIZATIONS:
            raise ValueError(
                '`normalize` must be "standardize", "whiten" or None. Received: '
                f"normalize={normalize!r}."
            )
        if not self.loss.equal_shapes and (projection == "orthogonal" or normalize is not None):
            raise ValueError(
                f"{type(self.loss).__name__} does not compare features element by element: a hint "
                "with it neither projects nor normalizes them. Received: "
                f"projection={projection!r}, normalize={normalize!r}. Leave both out."
            )
        self.projection = projection
        self.normalize = normalize
        self.name = name or _short_name(self.loss.name, self.student_paths)
        self._projections: list[keras.layers.Layer | None] | None = None
        self._shapes: dict[str, list[Shape]] | None = None

    @property
    def teacher_paths(self) -> list[str]:
        """The teacher's layers, always as a list."""
        return [self.teacher_layer] if isinstance(self.teacher_layer, str) else self.teacher_layer

    @property
    def student_paths(self) -> list[str]:
        """The student's layers, always as a list."""
        return [self.student_layer] if isinstance(self.student_layer, str) else self.student_layer

    @property
    def built(self) -> bool:
        """Whether the projections exist."""
        return self._projections is not None

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """The layers that are trained with the student: projections and parameters of the loss."""
        layers = [layer for layer in self._projections or [] if layer is not None]
        if self.loss.parameters is not None:
            layers.append(self.loss.parameters)
        return layers

    def build(self, teacher_shapes: Sequence[Shape], student_shapes: Sequence[Shape]) -> None:
        """Make the projections for features of these shapes, batch first.

        Raises:
            ValueError: If no projection leads from the one shape to the other.
        """
        if self.built:
            return
        projections: list[keras.layers.Layer | None] = []
        if self.loss.equal_shapes and len(teacher_shapes) != len(student_shapes):
            raise ValueError(
                f"Hint '{self.name}' compares layers one by one, but names {len(teacher_shapes)} "
                f"teacher layers and {len(student_shapes)} student layers."
            )
        projected_shapes = list(student_shapes)
        given = self.projection
        if isinstance(given, keras.layers.Layer):
            for i, student in enumerate(student_shapes):
                if not given.built:
                    given.build(tuple(student))
                projections.append(given)
                projected_shapes[i] = tuple(given.compute_output_shape(tuple(student)))
        elif self.loss.equal_shapes and given is not None:
            for i, (teacher, student) in enumerate(
                zip(teacher_shapes, student_shapes, strict=True)
            ):
                projection = self._make_projection(tuple(teacher), tuple(student))
                projections.append(projection)
                if projection is not None:
                    projected_shapes[i] = (*student[:-1], teacher[-1])
        self._projections = projections
        self._shapes = {
            "teacher": [tuple(shape) for shape in teacher_shapes],
            "student": [tuple(shape) for shape in student_shapes],
        }
        build = getattr(self.loss, "build", None)
        if build is not None and self.loss.parameters is None:
            single = isinstance(self.teacher_layer, str)
            teacher_shape = tuple(teacher_shapes[0]) if single else list(teacher_shapes)
            single = isinstance(self.student_layer, str)
            build(teacher_shape, projected_shapes[0] if single else projected_shapes)

    def refitted(self, student_shapes: Sequence[Shape]) -> Hint:
        """Return a hint for a student whose layers have other shapes now.

        Args:
            student_shapes: The shapes of the student's layers, batch first.

        Returns:
            This hint, if it is not built yet or was built for as many channels; otherwise a new
            one, with new projections and parameters.
        """
        if self._shapes is None:
            return self
        before = [shape[-1] for shape in self._shapes["student"]]
        if before == [shape[-1] for shape in student_shapes]:
            return self
        config = self.get_config()
        config |= {"shapes": None, "loss": self.loss.fresh()}
        if isinstance(self.projection, keras.layers.Layer):
            # Made from its configuration alone: a serialized layer would come back built.
            config["projection"] = made_again(self.projection)
        hint = type(self).from_config(config)
        hint.build(self._shapes["teacher"], student_shapes)
        return hint

    def _make_projection(self, teacher: Shape, student: Shape) -> keras.layers.Layer | None:
        where = f"Hint '{self.name}' ({self.teacher_layer} -> {self.student_layer})"
        if len(teacher) != len(student):
            raise ValueError(
                f"{where}: the teacher's feature has shape {teacher}, the student's {student}. "
                "A projection changes sizes, not the number of axes: name layers before or after "
                "pooling on both sides, or pass `projection=` a layer that bridges them."
            )
        orthogonal = self.projection == "orthogonal"
        if teacher[-1] == student[-1] and not orthogonal:
            return None
        if teacher[-1] is None or student[-1] is None:
            raise ValueError(f"{where}: the number of channels must be known, but is None.")
        kind = OrthogonalProjection if orthogonal else keras.layers.Dense
        name = scope_name(f"{self.name}_projection")
        with_channels = kind(teacher[-1], dtype="float32", name=name)
        with_channels.build(student)
        return with_channels

    def __call__(
        self,
        teacher: Any,
        student: Any,
        labels: Any = None,
        sample_weight: Any = None,
        training: bool | None = None,
    ) -> Any:
        """Return the loss between the teacher's features and the student's, a scalar.

        Args:
            teacher: The feature of each teacher layer, a list.
            student: The feature of each student layer, a list.
            labels: Labels, for losses that use them.
            sample_weight: Weights of the samples, shape `[batch]`. Defaults to `None`.
            training: Whether projections run in training mode. Defaults to `None`, as the layer
                around the call, or else in inference mode.
        """
        teacher, student = list(teacher), list(student)
        missing = not self.built and isinstance(self.projection, keras.layers.Layer)
        if self.loss.equal_shapes and self.projection is not None:
            for i in range(len(student)):
                if self.loss.equal_sides and _have_sides(teacher[i], student[i]):
                    teacher[i], student[i] = pool_to_smaller(teacher[i], student[i])
                missing |= not self.built and teacher[i].shape[-1] != student[i].shape[-1]
        if missing:
            raise ValueError(
                f"Hint '{self.name}' has no projection yet: the shapes of its layers are "
                "only known from data, and this data can be read only once. Call "
                "`distiller.objective.build(student, inputs)` with a batch before `fit`."
            )
        for i, projection in enumerate(self._projections or []):
            if projection is not None:
                student[i] = _projected(projection, student[i], training)
        if self.normalize is not None:
            teacher = [self._normalized(t, s) for t, s in zip(teacher, student, strict=True)]
        if isinstance(self.teacher_layer, str):
            teacher = teacher[0]
        if isinstance(self.student_layer, str):
            student = student[0]
        return self.loss(teacher, student, labels=labels, sample_weight=sample_weight)

    def _normalized(self, teacher: Any, student: Any) -> Any:
        mask = get_keras_mask(student)
        mask = get_keras_mask(teacher) if mask is None else mask
        wide = keras.ops.stop_gradient(keras.ops.cast(teacher, "float32"))
        result = NORMALIZATIONS[str(self.normalize)](wide, mask)
        if mask is not None:
            set_keras_mask(result, mask)
        return result

    def get_config(self) -> dict[str, Any]:
        """Return the configuration and the shapes the projections were built for."""
        projection = self.projection
        if isinstance(projection, keras.layers.Layer):
            projection = keras.saving.serialize_keras_object(projection)
        return {
            "teacher_layer": self.teacher_layer,
            "student_layer": self.student_layer,
            "loss": keras.saving.serialize_keras_object(self.loss),
            "projection": projection,
            "name": self.name,
            "normalize": self.normalize,
            "shapes": self._shapes,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Hint:
        """Make a hint from `get_config()`."""
        config = dict(config)
        shapes = config.pop("shapes", None)
        for key in ("loss", "projection"):
            if isinstance(config[key], dict):
                config[key] = keras.saving.deserialize_keras_object(config[key])
        hint = cls(**config)
        if shapes is not None:
            hint.build(*([tuple(s) for s in shapes[side]] for side in ("teacher", "student")))
        return hint


def _short_name(loss: str, paths: Sequence[str]) -> str:
    layers = [path.rpartition("/")[2] for path in paths]
    names = (f"{loss}_{'_'.join(layers)}", f"{loss}_{layers[-1]}")
    return next((name for name in names if len(name) <= _LONGEST_NAME), loss)


_LONGEST_NAME = 32


def _names(value: str | Sequence[str], argument: str) -> str | list[str]:
    names: list[Any] = [*value] if isinstance(value, (list, tuple)) else [value]
    if not names or not all(isinstance(name, str) and name for name in names):
        advice = " Pass its name: layer.name." if isinstance(value, keras.layers.Layer) else ""
        raise TypeError(
            f"`{argument}` must be the name of a layer or a list of names. Received: {value!r}."
            f"{advice}"
        )
    return value if isinstance(value, str) else names


def _have_sides(teacher: Any, student: Any) -> bool:
    """Return whether two features have as many sides, all of known size."""
    sides = [tuple(feature.shape[1:-1]) for feature in (teacher, student)]
    return len(sides[0]) == len(sides[1]) and None not in sides[0] + sides[1]


def _projected(projection: keras.layers.Layer, feature: Any, training: bool | None) -> Any:
    mask = get_keras_mask(feature)
    wide = keras.ops.cast(feature, "float32")
    if mask is not None:
        set_keras_mask(wide, mask)
    result = projection(wide, training=training)
    same_sides = result.shape[1:-1] == feature.shape[1:-1]
    if mask is not None and get_keras_mask(result) is None and same_sides:
        set_keras_mask(result, mask)
    return result
