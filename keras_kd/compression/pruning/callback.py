"""Pruning as a Keras callback."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from keras_kd.compression.pruning.masks import fewest_zeros
from keras_kd.compression.pruning.state import PruningState
from keras_kd.compression.pruning.times import PruningTimes, final_sparsity, sparsity_at
from keras_kd.compression.stages.kernels import PrunableWeight
from keras_kd.distilling.distiller import Distiller
from keras_kd.distilling.trainer import averages_of
from keras_kd.models.kept import zeros_to_keep
from keras_kd.models.weights import check_finite_weights
from keras_kd.system.user_warning import warn_user

if TYPE_CHECKING:
    from keras_kd.compression.pruning.prune import Prune


_AHEAD = 4096


class PruningCallback(keras.callbacks.Callback):
    """Prunes a Keras 3 model while `fit` trains it. Made by `Prune.as_callback`.

    The order is that of `tfmot.sparsity.keras.prune_low_magnitude`: before a step the masks are
    updated where the schedule says so, and no forward pass sees a masked weight other than zero.
    Here the masks are applied at the end of each step, inside the compiled step, but for the step
    before an update: what it brings back may pass the new masks. Where several steps are one
    execution (`steps_per_execution`), masks are updated before an execution.

    After the training the sparsity is the schedule's last one, also where it ended early.

    Args:
        prune: The stage.
        model: The model to prune. Defaults to `None`: the one that is trained; of a
            `keras_kd.Distiller`, its student.
        steps_per_epoch: Number of steps of an epoch, for data that does not know its length.
            Defaults to `None`.
        kernels: The kernels to prune by the path of their layer. Defaults to `None`: those that
            `prune` finds in the model.
    """

    def __init__(
        self,
        prune: Prune,
        model: keras.Model | None = None,
        steps_per_epoch: int | None = None,
        kernels: Mapping[str, Sequence[PrunableWeight]] | None = None,
    ) -> None:
        super().__init__()
        self._given_kernels = kernels is not None
        self.kernels = kernels or {}
        self._prune = prune
        self._pruned_model = model
        self._given_steps = steps_per_epoch
        self._name = f"_pruning_state_{prune.name}"
        self._prepared = self._training = False

    def prepare(self, model: keras.Model) -> None:
        """Find the kernels and make the masks, before `fit` does.

        Args:
            model: The model that is going to be trained.
        """
        pruned = self._pruned_model
        if pruned is None:
            pruned = model.student if isinstance(model, Distiller) else model
        check_finite_weights(pruned, "model")
        if not self._given_kernels:
            self.kernels = self._prune.kernels_of(pruned)[0]
        weights = [weight for found in self.kernels.values() for weight in found]
        self._state = PruningState(weights, self._prune.new_masks, model.distribute_strategy)
        self._prepared = True

    @property
    def variables(self) -> list[Any]:
        """What changes while training, once prepared: the step and the masks."""
        return self._state.state_variables

    def prune_at_once(self) -> None:
        """Prune, once prepared, to the sparsity that the schedule leads to, without training."""
        self._state.update(final_sparsity(self._prune.make_schedule(1), 1))
        self._say_ties()

    def set_model(self, model: keras.Model) -> None:
        """Let the masks be saved with the model that is trained."""
        super().set_model(model)
        if not self._prepared:
            self.prepare(model)
        self._prepared = False
        # Here, because `BackupAndRestore` loads in `on_train_begin`.
        object.__setattr__(model, self._name, self._state)

    def on_train_begin(self, logs: Any = None) -> None:
        """Take over the step of the model."""
        if self.model.__dict__.get(self._name) is not self._state:
            raise ValueError(
                f"Two callbacks prune under the name '{self._prune.name}', and their masks could "
                f'not be distinguished. Name one of them: Prune(..., name="{self._prune.name}_2").'
            )
        self._training = True
        steps, epochs = self._steps_per_epoch(), (self.params or {}).get("epochs")
        self._schedule = self._prune.make_schedule(
            None if steps is None or epochs is None else max(1, steps * epochs)
        )
        self._times = PruningTimes(self._schedule)
        run_after_step(self.model, self._name, self._state.after_step)
        # Keras's last callback: what is done at its end is done after `EarlyStopping` brought back
        # weights, wherever that stands in the list.
        others = self.model.history.on_train_end

        def after_all(logs: Any = None) -> None:
            others(logs)
            self._after_all()

        self.model.history.on_train_end = after_all

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Go on from the step that was restored, or that the first epoch begins with."""
        done = self._state.step
        late = done == 0 and epoch > 0
        if late:
            done = epoch * (self._steps_per_epoch() or 0)
            self._state.set_step(done)
        # A backup may have been written in the middle of an epoch.
        within = done % (self._steps_per_epoch() or done or 1)
        self._epoch_begin = done - within
        if not within:
            self._state.apply()
        if late and self._times.first_in(1, done) is not None:
            self._state.update(sparsity_at(self._schedule, done))
        self._look_ahead(done + 1)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Update the masks, if it is time."""
        first = self._epoch_begin + batch + 1
        last = first + self.model.steps_per_execution - 1
        if last < self._next:
            return
        steps = self._steps_per_epoch()
        last = min(last, self._epoch_begin + steps) if steps else last
        due = self._times.last_in(first, last)
        if due is not None:
            self._state.update(sparsity_at(self._schedule, due))
        self._look_ahead(last + 1)

    def on_test_begin(self, logs: Any = None) -> None:
        """Apply the masks, so that validation sees the pruned model."""
        if self._training:
            self._state.apply()

    def on_test_end(self, logs: Any = None) -> None:
        """Leave a model alone that was only evaluated."""
        if not self._training:
            self._detach()

    def on_predict_end(self, logs: Any = None) -> None:
        """Leave a model alone that only predicted."""
        if not self._training:
            self._detach()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Apply the masks, so that what is saved is pruned, and log the sparsity."""
        self._state.apply()
        if logs is not None:
            logs["sparsity"] = self._state.masked()

    def on_train_end(self, logs: Any = None) -> None:
        """Apply the masks a last time; prune the rest where training ended early."""
        if averages_of(self.model.optimizer):  # which `fit` has just put in place of the weights
            self._state.apply()
        self._say_restored()
        done = self._state.step
        target = final_sparsity(self._schedule, done)
        if done and self._state.sparsity < target - 1e-6:
            self._warn(
                f"Training ended before the schedule reached a sparsity of {target:.0%}: the last "
                "weights were pruned without training after it. Train longer, or let the schedule "
                "end earlier."
            )
            self._state.update(target)
        self._state.apply()
        self._training = False

    def _after_all(self) -> None:
        """Apply the masks to what callbacks behind this one brought back."""
        self.model.history.__dict__.pop("on_train_end", None)
        self._say_restored()
        self._state.apply()
        self._say_ties()
        self._detach()

    def _say_ties(self) -> None:
        """Warn of kernels in which so many weights are equal that the sparsity is missed."""
        if self._prune.scope == "global" or self._prune.sparsity_m_by_n is not None:
            return
        sparsity, block = self._state.sparsity, self._prune.block_size
        short = []
        for path, weights in self.kernels.items():
            zeros = [
                int((keras.ops.convert_to_numpy(w.variable.value) == 0).sum()) for w in weights
            ]
            missing = [
                fewest_zeros(w, sparsity, block) - n for w, n in zip(weights, zeros, strict=True)
            ]
            if any(m > 1 + w.size // 100 for m, w in zip(missing, weights, strict=True)):
                short.append(f"'{path}' ({self.sparsity_of(path):.0%})")
        if short:
            self._warn(
                f"Prune keeps weights of equal magnitude together, as TF-MOT does, and misses the "
                f'sparsity of {sparsity:.0%} in {", ".join(short)}. Prune by scope="global", '
                "which chooses among equal weights, or before the stage that made them equal, such "
                "as Cluster."
            )

    def _say_restored(self) -> None:
        if self._state.masked_weights_are_zero():
            return
        self._warn(
            "At the end of the training a callback such as EarlyStopping(restore_best_weights="
            "True) brought back weights of an epoch with fewer zeros. They were pruned again, "
            "without training after it. Let it begin once pruning is over: "
            "EarlyStopping(..., start_from_epoch=...)."
        )

    def _warn(self, text: str) -> None:
        """Warn about missing zeros, unless a kernel is NaN or infinite: the loss shows that."""
        weights = [weight for found in self.kernels.values() for weight in found]
        values = [keras.ops.convert_to_numpy(weight.variable.value) for weight in weights]
        if all(np.isfinite(value.astype("float32")).all() for value in values):
            warn_user(text)

    def sparsity_of(self, path: str) -> float:
        """Return the fraction of zeros in the kernels of the layer at `path`."""
        kernels = [keras.ops.convert_to_numpy(w.variable.value) for w in self.kernels[path]]
        return float(sum((k == 0).sum() for k in kernels) / sum(k.size for k in kernels))

    def _steps_per_epoch(self) -> int | None:
        return (self.params or {}).get("steps") or self._given_steps

    def _look_ahead(self, first: int) -> None:
        """Find the next update, and the step before it, after which weights stay unmasked."""
        begin, steps = self._epoch_begin, self._steps_per_epoch()
        last = begin + steps if steps else first + _AHEAD
        update = self._times.first_in(first, last)
        self._next = last + 1 if update is None else update
        before = -1
        if update is not None:
            several = self.model.steps_per_execution
            before = begin + (update - 1 - begin) // several * several
        # What follows the end of an epoch finds masked weights, as in TF-MOT.
        self._state.leave_unmasked_after(before if before > begin else -1)

    def _detach(self) -> None:
        stop_after_step(self.model, self._name)
        if self.model.__dict__.get(self._name) is self._state:
            object.__delattr__(self.model, self._name)


_HOOKS = "_keras_kd_after_step"


def run_after_step(model: keras.Model, name: str, function: Callable[[], None]) -> None:
    """Let `function` run at the end of every `train_step` of `model`.

    It becomes a part of the compiled step, so it also runs within `steps_per_execution`, under
    XLA and in the replicas of a strategy.

    Args:
        model: The model that is trained.
        name: A name for the function; it replaces one of the same name.
        function: Called without arguments while the step is traced.
    """
    hooks = model.__dict__.get(_HOOKS)
    if hooks is None:
        hooks = {}
        step = model.train_step

        @tf.autograph.experimental.do_not_convert
        def train_step(*args: Any, **kwargs: Any) -> Any:
            logs = step(*args, **kwargs)
            for hook in hooks.values():
                hook()
            return logs

        object.__setattr__(model, _HOOKS, hooks)
        object.__setattr__(model, "train_step", train_step)
    hooks[name] = function
    model.make_train_function(force=True)


def keep_zeros(trainer: keras.Model, model: keras.Model) -> None:
    """Let the zeros of a pruned model stay zero in every step of a training.

    Args:
        trainer: What is trained.
        model: The pruned model in it.
    """
    pairs = [(variable.value, mask) for variable, mask in zeros_to_keep(model)]
    if not pairs:
        return

    def mask_all(strategy: tf.distribute.Strategy) -> None:
        # `fit` ends with the averages of the weights, where the optimizer keeps them.
        averages = {id(v.value): a.value for v, a in averages_of(trainer.optimizer)}
        averaged = [(averages.get(id(variable)), mask) for variable, mask in pairs]
        for variable, mask in [*pairs, *averaged]:
            if variable is None:
                continue
            kept = tf.constant(mask, variable.dtype)
            strategy.extended.update(
                variable, lambda v, kept: v.assign(v * kept), args=(kept,), group=False
            )

    def after_step() -> None:
        strategy = tf.distribute.get_strategy()
        tf.__internal__.distribute.interim.maybe_merge_call(mask_all, strategy)

    run_after_step(trainer, "_kept_zeros", after_step)


def stop_after_step(model: keras.Model, name: str) -> None:
    """Undo `run_after_step`; the last one leaves the model as it was."""
    hooks = model.__dict__.get(_HOOKS, {})
    if hooks.pop(name, None) is None:
        return
    model.train_function = None
    if not hooks:
        object.__delattr__(model, _HOOKS)
        object.__delattr__(model, "train_step")
