"""What the outputs of a model are: logits or probabilities, and of which shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_kd.data.numpy_batches import safe_name

PROBABILITIES = ("softmax", "sigmoid")


def output_structure(model: Any) -> Any:
    """Return the symbolic outputs of a functional or built sequential model, else `None`."""
    if isinstance(model, keras.Sequential):
        return model.outputs[0] if model.built and model.inputs else None
    return getattr(model, "_outputs_struct", None)


def output_names(student: Any) -> list[str] | None:
    """Return the names of a student's outputs, or `None` where it does not tell them."""
    return getattr(student, "output_names", None)


def name_outputs(model: Any, outputs: Any) -> dict[str, Any]:
    """Give a Keras model's outputs names: dict keys, layer names, or `output_0`, `output_1`, ..."""
    if isinstance(outputs, Mapping):
        flat = keras.tree.flatten(dict(outputs))
        if len(flat) == len(outputs):
            return {str(key): outputs[key] for key in outputs}
    else:
        flat = keras.tree.flatten(outputs)
        names = list(getattr(model, "output_names", None) or ())
        if len(names) == len(flat) and len({safe_name(n) for n in names}) == len(flat):
            return dict(zip(names, flat, strict=True))
    return {f"output_{i}": tensor for i, tensor in enumerate(flat)}


def last_activation(model: Any) -> Any:
    """Return the last activation behind every output of a model.

    Args:
        model: A Keras model.

    Returns:
        In the structure of the model's outputs: `"softmax"`, `"sigmoid"`, another activation's
        name, or `"linear"`; `None` where it cannot be told, as for subclassed models.
    """
    structure = output_structure(model)
    if structure is None:
        return None
    return keras.tree.map_structure(_activation_behind, structure)


def _activation_behind(tensor: Any) -> str | None:
    history = getattr(tensor, "_keras_history", None)
    if history is None:
        return None
    layer = history.operation
    if isinstance(layer, keras.Model):
        nested = last_activation(layer)
        flat = keras.tree.flatten(nested) if nested is not None else [None]
        return flat[history.tensor_index] if history.tensor_index < len(flat) else None
    if isinstance(layer, (keras.layers.Reshape, keras.layers.Flatten, keras.layers.Dropout)):
        return _activation_behind(layer._inbound_nodes[history.node_index].input_tensors[0])
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    activation = getattr(layer, "activation", None)
    if activation is not None:
        return getattr(activation, "__name__", None)
    if isinstance(layer, keras.layers.Layer):
        return "linear" if isinstance(layer, _LINEAR_LAYERS) else None
    # An operation is named after itself, with a number behind it from the second on.
    return next((name for name in PROBABILITIES if layer.name.startswith(name)), None)


_LINEAR_LAYERS = (
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.BatchNormalization,
)


def look_like_probabilities(values: np.ndarray) -> bool:
    """Whether every row of `values`, along the last axis, is a distribution that is not one-hot."""
    values = np.asarray(values, "float64")
    if values.ndim < 2 or values.shape[-1] < 2 or values.size == 0:
        return False
    return bool(
        (values >= 0).all()
        and (values <= 1 + 1e-3).all()
        and np.allclose(values.sum(-1), 1.0, atol=1e-2)
    )


def student_loss_for(loss: Any, activation: str | None) -> Any:
    """Turn the name of a cross-entropy into the loss that fits the student's output.

    Keras reads the names as losses on probabilities; a student that ends in logits needs
    `from_logits=True`.

    Args:
        loss: A loss as in `keras.Model.compile`.
        activation: The last activation behind the student's output, as in `last_activation`.

    Raises:
        ValueError: If a loss object's `from_logits` contradicts the student's last activation.
    """
    logits = activation not in PROBABILITIES
    if isinstance(loss, str):
        name = loss.lower()
        made = {
            "sparse_categorical_crossentropy": keras.losses.SparseCategoricalCrossentropy,
            "sparsecategoricalcrossentropy": keras.losses.SparseCategoricalCrossentropy,
            "categorical_crossentropy": keras.losses.CategoricalCrossentropy,
            "categoricalcrossentropy": keras.losses.CategoricalCrossentropy,
            "binary_crossentropy": keras.losses.BinaryCrossentropy,
            "binarycrossentropy": keras.losses.BinaryCrossentropy,
            "bce": keras.losses.BinaryCrossentropy,
        }.get(name)
        return made(from_logits=logits) if made is not None else keras.losses.get(loss)
    if not isinstance(loss, keras.losses.Loss) or activation is None:
        return loss
    from_logits = loss.get_config().get("from_logits")
    name = type(loss).__name__
    if from_logits is True and activation in PROBABILITIES:
        raise ValueError(
            f"The student ends in {activation}, but its loss is {name}(from_logits=True): that "
            f"takes the {activation} twice. Remove the student's last activation (best for "
            f"distillation), or use loss=keras.losses.{name}(from_logits=False)."
        )
    if from_logits is False and activation == "linear":
        raise ValueError(
            f"The student ends in logits, but its loss is {name}(from_logits=False), which needs "
            f"probabilities. Use loss=keras.losses.{name}(from_logits=True)."
        )
    return loss


def check_labels(loss: Any, labels: Any, classes: int | None) -> None:
    """Refuse labels that `loss` cannot read.

    Args:
        loss: The student's loss.
        labels: Labels of some or all examples.
        classes: Size of the last axis of the student's output.

    Raises:
        ValueError: If sparse labels lie outside `0 ... classes - 1` or are one-hot, or one-hot
            labels have another number of classes.
    """
    values = np.asarray(labels)
    if classes is None or values.size == 0:
        return
    if isinstance(loss, keras.losses.SparseCategoricalCrossentropy):
        if _is_one_hot(values, classes):
            raise ValueError(
                f"Labels of shape {values.shape} are one-hot, but SparseCategoricalCrossentropy "
                "reads class numbers. Use keras.losses.CategoricalCrossentropy(from_logits=True), "
                "or give y.argmax(-1) as the labels."
            )
        ignored = loss.get_config().get("ignore_class")
        values = values[values != ignored] if ignored is not None else values
        wrong = values[(values < 0) | (values >= classes)]
        if wrong.size:
            label = wrong.flat[0]
            advice = (
                f"give the student {int(values.max()) + 1} outputs"
                if label >= classes
                else f"where {label} stands for no label, use keras.losses."
                f"SparseCategoricalCrossentropy(from_logits=True, ignore_class={label})"
            )
            raise ValueError(
                f"Labels must lie in 0 ... {classes - 1}, because the student has {classes} "
                f"outputs, but the data holds {label}. Correct the labels, or {advice}."
            )
    elif isinstance(loss, keras.losses.CategoricalCrossentropy) and values.shape[-1] != classes:
        raise ValueError(
            f"Labels of shape {values.shape} do not fit a student with {classes} outputs: "
            f"CategoricalCrossentropy needs one-hot labels of shape (batch, {classes}); for "
            "integer labels use keras.losses.SparseCategoricalCrossentropy(from_logits=True)."
        )


def _is_one_hot(values: np.ndarray, classes: int) -> bool:
    if values.ndim < 2 or classes < 2 or values.shape[-1] != classes:
        return False
    return bool(np.isin(values, (0, 1)).all() and (values.sum(-1) == 1).all())
