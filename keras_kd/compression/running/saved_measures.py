"""The loss and the metrics of a compressed model as JSON, so that a loaded one evaluates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import keras
from keras.src.trainers.compile_utils import CompileLoss, CompileMetrics

_ERRORS = (AttributeError, ImportError, NotImplementedError, OSError, TypeError, ValueError)


def measures_to_json(loss: Any, metrics: Any) -> dict[str, Any]:
    """Return loss and metrics as JSON can hold them.

    Args:
        loss: The loss of a compiled model, or `None`.
        metrics: Its metrics, or `None`.

    Returns:
        `"loss"` and `"metrics"`, each `None` where there is none or Keras cannot serialize it.
    """
    return {
        "loss": _serialized(
            loss, {"loss": "_user_loss", "loss_weights": "_user_loss_weights"}
        ),
        "metrics": _serialized(
            metrics, {"metrics": "_user_metrics", "weighted_metrics": "_user_weighted_metrics"}
        ),
    }  # fmt: skip


def measures_from_json(content: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the loss and the metrics of `measures_to_json`, `None` for what cannot be made again.

    Args:
        content: What `measures_to_json` returned.
    """
    return (
        _made(CompileLoss, content.get("loss"), ("loss", "loss_weights")),
        _made(CompileMetrics, content.get("metrics"), ("metrics", "weighted_metrics")),
    )


def _serialized(measures: Any, attributes: Mapping[str, str]) -> Any:
    if measures is None:
        return None
    try:
        content = {
            key: keras.saving.serialize_keras_object(getattr(measures, attribute))
            for key, attribute in attributes.items()
        }
        content["output_names"] = measures.output_names
        return json.loads(json.dumps(content))
    except _ERRORS:
        return None


def _made(kind: Any, content: Any, keys: tuple[str, str]) -> Any:
    if content is None:
        return None
    try:
        parts = [keras.saving.deserialize_keras_object(content[key]) for key in keys]
    except _ERRORS:
        return None
    return kind(*parts, output_names=content["output_names"])
