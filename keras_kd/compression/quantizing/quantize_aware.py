"""QuantizeAware: train a student for 8 bits."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from typing import Any

import keras

from keras_kd.compression.clustering.clustered_model import clustered_variables
from keras_kd.compression.pruning.prune import Prune
from keras_kd.compression.quantizing.quantized_model import (
    QuantizedModel,
    calibrate,
    quantize,
    widen_empty_ranges,
)
from keras_kd.compression.running.teaching import as_dataset
from keras_kd.compression.stages.layer_record import already_pruned
from keras_kd.compression.stages.one_device import refuse_scope
from keras_kd.compression.stages.stage import Stage, StudentState
from keras_kd.compression.tf_keras_bridge.bridge import check_bridgeable, to_tf_keras
from keras_kd.compression.tf_keras_bridge.kept_values import kept_values
from keras_kd.data.taught_inputs import student_inputs
from keras_kd.models.layer_plan import LayerPlan
from keras_kd.system.arguments import number


@keras.saving.register_keras_serializable(package="keras_kd")
class QuantizeAware(Stage):
    """Trains a student while 8-bit weights and activations are emulated, with TF-MOT.

    The student is rebuilt in `tf_keras`, which TF-MOT works on; nested models are inlined. The
    ranges of the activations start at those of some training batches. After `Prune` the zeros
    stay, by TF-MOT's prune-preserving scheme. After a `Cluster` stage of the same `compress` the
    weights of a clustered kernel that have the same value are trained as one, and a kernel that
    was clustered as a whole has one range, so that its integers in the file are as few as its
    values. Of the layers that TF-MOT does not know, Conv1D and Embedding
    have kernels of 8 bits too; the others stay float, with outputs of 8 bits where that is
    possible, and are named in one warning. Hints at layers that exist go on teaching, and their
    projections go on learning.

    Args:
        epochs: Number of epochs of training; with 0 the ranges are those of some training batches.
            Defaults to `1`.
        calibration_batches: Number of training batches that the first ranges are taken from.
            Defaults to `10`.
        optimizer: A Keras optimizer or its name, of a class that `tf_keras` has too. Defaults to
            `None`: Adam.
        learning_rate: Learning rate of the default optimizer. Defaults to `None`: `1e-4`.
        name: Name of the stage in the history. Defaults to `"quantize_aware"`.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    compressed = keras_kd.compress(
        distiller,
        train,
        validation_data=validation,
        stages=[keras_kd.Prune(0.75, epochs=4), keras_kd.QuantizeAware(epochs=2)],
    )
    keras_kd.export_tflite(
        compressed, "exports/student.tflite", quantization="int8", representative_data=train
    )
    ```

    Reference:
        Jacob et al., Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference, 2018, arXiv:1712.05877.
    """

    default_learning_rate = 1e-4
    one_device = True

    def __init__(
        self,
        epochs: int = 1,
        calibration_batches: int = 10,
        optimizer: Any = None,
        learning_rate: Any = None,
        name: str | None = None,
    ) -> None:
        super().__init__(epochs, optimizer, learning_rate, name)
        self.calibration_batches = number(
            "calibration_batches", calibration_batches, least=1, whole=True, owner="QuantizeAware"
        )

    def check(self, student: keras.Model, earlier: Sequence[Stage]) -> None:
        """Refuse what cannot be rebuilt or quantized.

        The student is rebuilt and quantized on trial, so that nothing fails after hours of
        training.
        """
        self.layer_plans(student, earlier)

    def layer_plans(self, student: keras.Model, earlier: Sequence[Stage]) -> dict[str, LayerPlan]:
        """Say what has 8 bits, what is folded and what stays float, by the same trial."""
        from keras_kd.compression.tf_keras_bridge.trainer import to_tf_keras_optimizer

        refuse_scope("QuantizeAware")
        check_bridgeable(student)
        to_tf_keras_optimizer(self.make_optimizer())
        pruned = already_pruned(student) or any(isinstance(stage, Prune) for stage in earlier)
        quantized = quantize(to_tf_keras(student), pruned)
        plan = {path: LayerPlan("8 bits") for path in quantized.layer_names}
        plan.update({path: LayerPlan("fold") for path in quantized.folded})
        for path, reason in quantized.reasons.items():
            partly = path in quantized.quantized
            plan[path] = LayerPlan.spared(reason, "8 bits, activation float" if partly else "float")
        return plan

    def run(self, state: StudentState, teaching: Any) -> None:
        """Train for 8 bits; the state's model becomes a `tf_keras` model."""
        clustered = {path: note.clustered for path, note in state.notes.items() if note.clustered}
        wholes = [path for path, what in clustered.items() if what == "kernel"]
        quantized = quantize(to_tf_keras(state.model), state.pruned, wholes)
        _warn_of_float_layers(quantized)
        state.structure = state.model
        state.model = quantized.model
        state.layer_names = quantized.layer_names
        state.weight_layers = quantized.weight_layers

        inputs = (
            student_inputs(keras.utils.unpack_x_y_sample_weight(batch)[0])
            for batch in itertools.islice(
                iter(as_dataset(teaching.examples)), self.calibration_batches
            )
        )
        calibrate(state.model, inputs)
        state.history[self.name] = teaching.fit_in_tf_keras(
            state,
            self.make_optimizer(),
            self.epochs,
            kept_values(
                state.model.trainable_variables,
                state.pruned,
                clustered_variables(state.model, state.weight_layers, clustered),
            ),
        )
        widen_empty_ranges(state.model)
        state.quantization_aware = True
        self._take_notes(state, quantized)

    def gentler(self) -> Stage | None:
        """Return a stage of twice as many epochs; one that is not trained has none."""
        return self.changed(epochs=2 * self.epochs) if self.epochs else None

    def _take_notes(self, state: StudentState, quantized: QuantizedModel) -> None:
        for path in quantized.quantized:
            state.note(path).done.append("trained for 8-bit weights")
            state.note(path).bits = 8
        for path in quantized.folded:
            state.note(path).done.append("folded into the layer before it")
        for path, reason in quantized.reasons.items():
            what = "its activation stays float" if path in quantized.quantized else "stays float"
            state.note(path).not_done.append(f"{what}: {reason}")

    def get_config(self) -> dict[str, Any]:
        """Return the configuration."""
        return {**super().get_config(), "calibration_batches": self.calibration_batches}


def _warn_of_float_layers(quantized: QuantizedModel) -> None:
    names = [f"'{path}' ({name})" for path, name in quantized.float_layers.items()]
    if not names:
        return
    shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    warnings.warn(
        f"QuantizeAware leaves {len(names)} layers in float, because TF-MOT does not quantize them "
        f"at their place: {shown}.",
        stacklevel=2,
    )
