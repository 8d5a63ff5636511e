"""A `tf_keras` layer that runs an operation or a layer of Keras 3.

Imports `tf_keras`: import this module only inside functions.
"""

from __future__ import annotations

import json
from typing import Any

import keras
import tensorflow as tf
import tf_keras

from keras_kd.compression.tfmot import import_tfmot

_ClusterableLayer: Any = import_tfmot().clustering.keras.ClusterableLayer

_TENSOR = "__keras_kd_tensor_{}__"


def call_template(args: Any, kwargs: Any, is_tensor: Any) -> tuple[str, list[Any]]:
    """Separate the tensors of a call from its other arguments.

    Args:
        args: Positional arguments, a nested structure.
        kwargs: Keyword arguments.
        is_tensor: Tells whether a leaf is a tensor.

    Returns:
        The call as text, with a placeholder for each tensor, and the tensors in their order.
    """
    tensors: list[Any] = []

    def replace(leaf: Any) -> Any:
        if not is_tensor(leaf):
            return leaf
        tensors.append(leaf)
        return _TENSOR.format(len(tensors) - 1)

    call = {
        "args": list(keras.tree.map_structure(replace, list(args))),
        "kwargs": keras.tree.map_structure(replace, dict(kwargs)),
    }
    return json.dumps(keras.saving.serialize_keras_object(call)), tensors


@tf_keras.utils.register_keras_serializable(package="keras_kd")
class HostedLayer(tf_keras.layers.Layer, _ClusterableLayer):
    """Runs an operation or a layer of Keras 3 inside a model of `tf_keras`.

    For what has no equal in `tf_keras`: operators such as `x + 3.0`, newer layers, layers of
    one's own. Weights are trained, losses and updates of state count. The kernels of `EinsumDense`
    and of what is made of it, of recurrent layers and the like can be clustered.

    Args:
        operation: The operation, as JSON of `keras.saving.serialize_keras_object`.
        template: Its call, as JSON of `call_template`.
        input_dtypes: The dtype of each input tensor.
        **kwargs: Arguments of `tf_keras.layers.Layer`.
    """

    def __init__(
        self, operation: str, template: str, input_dtypes: list[str], **kwargs: Any
    ) -> None:
        # Inputs may be integers, and the operation casts for itself.
        super().__init__(autocast=False, **kwargs)
        self.operation_config = operation
        self.template = template
        self.input_dtypes = list(input_dtypes)
        self._call = keras.saving.deserialize_keras_object(json.loads(template))
        # In a tuple, so that neither Keras tracks the other's objects.
        self._hosted = (keras.saving.deserialize_keras_object(json.loads(operation)),)

    @property
    def operation(self) -> Any:
        """The operation or layer of Keras 3; its own variables are not the ones in use."""
        return self._hosted[0]

    def _arguments(self, inputs: Any) -> tuple[list[Any], dict[str, Any]]:
        tensors = tf.nest.flatten(inputs)
        placeholders = {_TENSOR.format(i): tensor for i, tensor in enumerate(tensors)}

        def fill(leaf: Any) -> Any:
            return placeholders.get(leaf, leaf) if isinstance(leaf, str) else leaf

        call = keras.tree.map_structure(fill, self._call)
        return call["args"], call["kwargs"]

    def build(self, input_shape: Any) -> None:
        """Create the weights, those of the Keras 3 layer."""
        operation = self.operation
        self._trained: list[str] = []
        self._state: list[Any] = []
        if isinstance(operation, keras.layers.Layer):
            if not operation.built:
                shapes = _shapes(input_shape)
                args, kwargs = self._arguments(
                    [
                        keras.KerasTensor(shape, dtype)
                        for shape, dtype in zip(shapes, self.input_dtypes, strict=True)
                    ]
                )
                operation(*args, **kwargs)
            for i, variable in enumerate(operation.trainable_variables):
                # An attribute each, which TF-MOT replaces by the clustered weight.
                setattr(self, f"trained_{i}", self._mirror(f"trained_{i}", variable, True))
                self._trained.append(f"trained_{i}")
            for i, variable in enumerate(operation.non_trainable_variables):
                self._state.append(self._mirror(f"state_{i}", variable, False))
        super().build(input_shape)

    def _mirror(self, name: str, variable: Any, trainable: bool) -> Any:
        return self.add_weight(
            name=name,
            shape=tuple(variable.shape),
            dtype=variable.dtype,
            initializer="zeros",
            trainable=trainable,
        )

    def call(self, inputs: Any, training: Any = None) -> Any:
        """Run the operation on `inputs`, one tensor or a list."""
        args, kwargs = self._arguments(inputs)
        operation = self.operation
        if not isinstance(operation, keras.layers.Layer):
            return operation(*args, **kwargs)
        if operation._call_has_training_arg and "training" not in kwargs:
            # A learning phase known only at run time occurs while a model is being assembled.
            kwargs["training"] = bool(tf.get_static_value(training) or False)
        outputs, state, losses = operation.stateless_call(
            [getattr(self, name) for name in self._trained],
            list(self._state),
            *args,
            return_losses=True,
            **kwargs,
        )
        for variable, value in zip(self._state, state, strict=True):
            if value is not variable:
                variable.assign(value)
        if losses:
            self.add_loss(tf.add_n([tf.cast(loss, tf.float32) for loss in losses]))
        return outputs

    def copy_weights(self, layer: Any) -> None:
        """Take the weights of `layer`, the Keras 3 layer that this one stands for."""
        if not isinstance(layer, keras.layers.Layer):
            return
        for mirror, variable in zip(
            [*(getattr(self, name) for name in self._trained), *self._state],
            [*layer.trainable_variables, *layer.non_trainable_variables],
            strict=True,
        ):
            mirror.assign(keras.ops.convert_to_numpy(variable.value))

    def get_clusterable_weights(self) -> list[tuple[str, Any]]:
        """Return name and variable of each kernel, for TF-MOT."""
        from keras_kd.compression.stages.kernels import layer_kernels

        if not isinstance(self.operation, keras.layers.Layer):
            return []
        kernels = {id(kernel) for kernel in layer_kernels(self.operation)}
        return [
            (name, getattr(self, name))
            for name, variable in zip(
                self._trained, self.operation.trainable_variables, strict=True
            )
            if id(variable) in kernels
        ]

    def get_config(self) -> dict[str, Any]:
        """Return the configuration."""
        return {
            **super().get_config(),
            "operation": self.operation_config,
            "template": self.template,
            "input_dtypes": self.input_dtypes,
        }


def _shapes(input_shape: Any) -> list[tuple[int | None, ...]]:
    if isinstance(input_shape, (list, tuple)) and any(
        isinstance(part, (list, tuple, tf.TensorShape)) for part in input_shape
    ):
        return [tuple(tf.TensorShape(part).as_list()) for part in input_shape]
    return [tuple(tf.TensorShape(input_shape).as_list())]
