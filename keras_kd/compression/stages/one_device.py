"""Stages that train with `tf_keras` do so on one device: what is said of it, and when."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from keras_kd.distilling.trainer import has_several_workers

if TYPE_CHECKING:
    from keras_kd.compression.stages.stage import Stage


def refuse_scope(stage: str) -> None:
    """Refuse to rebuild a student in `tf_keras` in the scope of a strategy.

    Args:
        stage: The class of the stage, for the message.

    Raises:
        ValueError: If such a scope is open.
    """
    if tf.distribute.has_strategy():
        name = type(tf.distribute.get_strategy()).__name__
        raise ValueError(
            f"{stage} trains with tf_keras on one device, and was called in the scope of a {name}. "
            "Call `compress` outside `with strategy.scope():`; the stages that train with Keras 3 "
            "use the strategy of the distiller there as well."
        )


def check_devices(stages: Sequence[Stage], strategy: Any) -> None:
    """Say that some stages will not use the devices of the distiller's strategy.

    Args:
        stages: The stages of a run.
        strategy: The distiller's strategy.

    Raises:
        ValueError: If the strategy has several workers, all of which would train the same.
    """
    replicas = strategy.num_replicas_in_sync
    names = [type(stage).__name__ for stage in stages if stage.one_device]
    if replicas == 1 or not names:
        return
    train = "train" if len(names) > 1 else "trains"
    what = f"{' and '.join(names)} {train} with tf_keras on one device"
    if has_several_workers(strategy):
        raise ValueError(
            f"{what}, and the distiller's {type(strategy).__name__} has several workers. Save the "
            "student after the other stages, and run these in one process without a strategy."
        )
    warnings.warn(
        f"{what}: the {replicas} replicas of the distiller's {type(strategy).__name__} are not "
        "used there, and each batch of `train` goes through one of them.",
        stacklevel=3,
    )
