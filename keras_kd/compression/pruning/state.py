"""The masks of a pruning under way, saved and restored with the model that is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_kd.compression.pruning.masks import masked_fraction
from keras_kd.compression.stages.kernels import PrunableWeight

_Masks = Callable[[Sequence[PrunableWeight], Sequence[tf.Tensor], tf.Tensor], list[tf.Tensor]]


class PruningState(keras.layers.Layer):
    """Masks, and what decides when they change.

    A layer only so that Keras saves it with the weights of the model that it is attached to, and
    loads it from there: a killed training resumes with its masks.

    Args:
        weights: The kernels that are pruned.
        new_masks: Takes the kernels, their values and a sparsity, and returns the masks.
        strategy: The strategy that the model is trained under.
    """

    def __init__(
        self, weights: Sequence[PrunableWeight], new_masks: _Masks, strategy: tf.distribute.Strategy
    ) -> None:
        super().__init__(name="pruning_state")
        self.built = True
        variables = [weight.variable.value for weight in weights]
        with strategy.scope():
            masks = [
                tf.Variable(tf.ones(v.shape, v.dtype), trainable=False, name="mask")
                for v in variables
            ]
            self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
            self._sparsity = tf.Variable(0.0, dtype=tf.float64, trainable=False)
            self._unmasked_after = tf.Variable(-1, dtype=tf.int64, trainable=False)
        self._masks = masks
        self._strategy = strategy
        pairs = list(zip(variables, masks, strict=True))

        @tf.function(autograph=False)
        def update(sparsity: tf.Tensor) -> None:
            values = [tf.convert_to_tensor(variable) for variable in variables]
            for mask, new in zip(masks, new_masks(weights, values, sparsity), strict=True):
                mask.assign(new)

        @tf.function(autograph=False)
        def apply() -> None:
            for variable, mask in pairs:
                variable.assign(variable * mask)

        # Keras would look through a list of variables for weights of a layer.
        object.__setattr__(self, "_functions", (update, apply, pairs))

    @property
    def step(self) -> int:
        """The number of steps done."""
        return int(self._step.numpy())

    @property
    def sparsity(self) -> float:
        """The sparsity that the masks were chosen for."""
        return float(self._sparsity.numpy())

    @property
    def state_variables(self) -> list[tf.Variable]:
        """What a training that is to be continued needs to keep."""
        return [self._step, self._sparsity, *self._masks]

    def set_step(self, step: int) -> None:
        """Set the number of steps done."""
        with self._strategy.scope():
            self._step.assign(step)

    def leave_unmasked_after(self, step: int) -> None:
        """Do not mask after `step`: the weights that it brings back may pass the next masks."""
        with self._strategy.scope():
            self._unmasked_after.assign(step)

    def update(self, sparsity: float) -> None:
        """Choose new masks, and apply them."""
        with self._strategy.scope():
            self._functions[0](tf.constant(sparsity, tf.float64))
            self._sparsity.assign(sparsity)
        self.apply()

    def apply(self) -> None:
        """Set the masked weights to zero."""
        with self._strategy.scope():
            self._functions[1]()

    def masked_weights_are_zero(self) -> bool:
        """Whether the masks were applied to the weights as they are."""
        pairs = self._functions[2]
        return all(bool(tf.reduce_all((v * (1 - m)) == 0)) for v, m in pairs)

    def after_step(self) -> None:
        """Count a step and apply the masks, inside the compiled step of training."""
        tf.__internal__.distribute.interim.maybe_merge_call(
            self._after_step, tf.distribute.get_strategy()
        )

    def _after_step(self, strategy: tf.distribute.Strategy) -> None:
        extended = strategy.extended
        extended.update(self._step, lambda step: step.assign_add(1), group=False)
        unmasked = tf.equal(self._step, self._unmasked_after)

        def mask_weights(variable: Any, mask: Any) -> None:
            variable.assign(variable * tf.maximum(mask, tf.cast(unmasked, mask.dtype)))

        for variable, mask in self._functions[2]:
            extended.update(variable, mask_weights, args=(mask,), group=False)

    def masked(self) -> float:
        """Return the fraction of masked weights."""
        return masked_fraction(self._masks)

    def save_own_variables(self, store: Any) -> None:
        """Save the masks and the count."""
        store["step"] = np.asarray(self.step)
        store["sparsity"] = np.asarray(self.sparsity)
        for i, mask in enumerate(self._masks):
            store[f"mask_{i}"] = mask.numpy() != 0

    def load_own_variables(self, store: Any) -> None:
        """Load the masks and the count, if the file holds any."""
        if "step" not in store.keys():  # noqa: SIM118 (Keras's stores are no mappings)
            return
        self.set_step(int(np.asarray(store["step"])))
        with self._strategy.scope():
            self._sparsity.assign(float(np.asarray(store["sparsity"])))
            for i, mask in enumerate(self._masks):
                mask.assign(tf.cast(np.asarray(store[f"mask_{i}"]), mask.dtype))
