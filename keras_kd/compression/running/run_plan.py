"""What a run of `compress` is of: two runs with the same plan are the same run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_kd.compression.running.student_files import as_json, config_of
from keras_kd.compression.running.teaching import count_batches
from keras_kd.compression.stages.layer_record import leaf_layers
from keras_kd.compression.stages.stage import Stage
from keras_kd.distilling.schedules import serialize
from keras_kd.models.layers import hash_of_weights


def run_plan(
    distiller: Any,
    stages: Sequence[Stage],
    train: Any,
    validation_data: Any,
    **arguments: Any,
) -> dict[str, Any]:
    """Return the plan of a run, as JSON can hold it.

    Weights are told by a hash. Data are told by their number of batches and the shapes and types
    of their elements, not by their values.

    Args:
        distiller: A compiled `Distiller`.
        stages: The stages.
        train: Training data, as batches.
        validation_data: Validation data, as batches, or `None`.
        **arguments: Further arguments of `compress` that decide on the result.
    """
    student = distiller.student
    return as_json(
        {
            "student": {
                "name": student.name,
                "parameters": student.count_params(),
                # Records tell layers by their names, and Keras numbers those it names itself.
                "names of layers": [path for path, _ in leaf_layers(student)],
                "weights": hash_of_weights(student),
            },
            "teacher": {"weights": hash_of_weights(distiller.teacher)},
            "objective": _objective(distiller),
            "stages": [
                {"class": type(stage).__name__, "config": config_of(stage)} for stage in stages
            ],
            "data": {**_data("train", train), **_data("validation", validation_data)},
            **arguments,
        }
    )


def _data(name: str, data: Any) -> dict[str, Any]:
    if data is None:
        return {f"{name} batches": None, f"{name} elements": None}
    if isinstance(data, tf.data.Dataset):
        return {
            f"{name} batches": count_batches(data),
            f"{name} elements": str(data.element_spec),
        }
    specs = keras.tree.map_structure(
        lambda leaf: [str(leaf.dtype), list(leaf.shape)[1:]], list(data[0])
    )
    return {f"{name} batches": len(data), f"{name} elements": specs}


def _objective(distiller: Any) -> dict[str, Any]:
    compiled = distiller._compile_loss
    return {
        "distillation_losses": [
            keras.tree.map_structure(_serialized, loss) for loss in distiller.distillation_losses
        ],
        "distillation_loss_weights": [
            _serialized(weight) for weight in distiller.distillation_loss_weights
        ],
        "student_loss_weight": _serialized(distiller.student_loss_weight),
        "student_loss": None
        if compiled is None
        else keras.tree.map_structure(_serialized, compiled._user_loss),
    }


def _serialized(value: Any) -> Any:
    try:
        return serialize(value)
    except (NotImplementedError, OSError, TypeError, ValueError):
        return value
