"""Prune: set the smallest weights of a student to zero while it learns."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from keras_kd.compression.layer_choice import LayerChoice, choice_from_config
from keras_kd.compression.layer_record import leaf_layers
from keras_kd.compression.stage import Stage, StudentState
from keras_kd.compression.tfmot import import_tfmot


@keras.saving.register_keras_serializable(package="keras_kd")
class Prune(Stage):
    """Prunes a student by magnitude, layer by layer, with TF-MOT's masks and schedules.

    Before each step, where the schedule says so, the weights of smallest magnitude of each kernel
    are masked; the forward pass never sees a masked weight other than zero. Kernels of dense and
    convolutional layers, embeddings, recurrent cells and attention are pruned; biases,
    normalisation and depthwise kernels are not, as in TF-MOT. The student stays a Keras 3 model,
    which may be subclassed, and its masked weights are exactly zero.

    Args:
        sparsity: Fraction of each kernel to set to zero, at least 0 and below 1. Defaults to
            `0.5`.
        epochs: Number of epochs of training. Defaults to `1`.
        begin: Fraction of the training after which pruning begins. Defaults to `0.0`.
        end: Fraction of the training after which the masks are fixed. Defaults to `0.75`.
        schedule: A `tfmot.sparsity.keras` schedule (`ConstantSparsity`, `PolynomialDecay`, or one
            of one's own), in place of `sparsity`, `begin`, `end` and `frequency`. Defaults to
            `None`: a cubic decay from no zeros to `sparsity`.
        frequency: Steps between two updates of the masks. Defaults to `None`: some 100 updates.
        layers: The layers to prune: a name, a list of names, or a function that takes a layer and
            tells. A name is a layer's own (`"conv1"`), its path inside a nested model
            (`"backbone/conv1"`) or a shell pattern of either (`"block3_*"`). Defaults to `None`:
            all that can be.
        exclude: The layers to spare, given in the same way. Defaults to `None`: none.
        optimizer: A Keras optimizer or its name. Defaults to `None`: Adam.
        learning_rate: Learning rate of the default optimizer. Defaults to `None`: `1e-3`.
        name: Name of the stage in the history. Defaults to `"prune"`.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    compressed = keras_kd.compress(
        distiller, train, validation_data=validation, stages=[keras_kd.Prune(0.75, epochs=4)]
    )
    ```

    Reference:
        Zhu and Gupta, To Prune, or Not to Prune, 2017, arXiv:1710.01878.
    """

    default_learning_rate = 1e-3
    not_after: ClassVar = {
        "Cluster": "whose shared values are trained around the zeros that exist by then.",
        "QuantizeAware": "which fixes how weights are stored.",
    }

    def __init__(
        self,
        sparsity: float = 0.5,
        epochs: int = 1,
        begin: float = 0.0,
        end: float = 0.75,
        schedule: Any = None,
        frequency: int | None = None,
        layers: Any = None,
        exclude: Any = None,
        optimizer: Any = None,
        learning_rate: Any = None,
        name: str | None = None,
    ) -> None:
        super().__init__(epochs, optimizer, learning_rate, name)
        if isinstance(sparsity, bool) or not isinstance(sparsity, (int, float)):
            raise ValueError(f"Prune: `sparsity` must be a number, but received {sparsity!r}.")
        if not 0.0 <= sparsity < 1.0:
            raise ValueError(
                f"Prune: `sparsity` is the fraction of zeros, at least 0 and below 1, but received "
                f"{sparsity}. For three zeros in four weights write Prune(0.75)."
            )
        if not 0.0 <= begin <= end <= 1.0:
            raise ValueError(
                "Prune: `begin` and `end` are fractions of the training with "
                f"0 <= begin <= end <= 1, but received begin={begin}, end={end}."
            )
        if frequency is not None and (not isinstance(frequency, int) or frequency < 1):
            raise ValueError(
                f"Prune: `frequency` must be a whole number of at least 1, but received "
                f"{frequency!r}."
            )
        self.sparsity = float(sparsity)
        self.begin = float(begin)
        self.end = float(end)
        self.schedule = schedule
        self.frequency = frequency
        self.choice = LayerChoice("Prune", layers, exclude)

    def check(self, student: keras.Model, earlier: Sequence[Stage]) -> None:
        """Refuse a student without kernels, and names of layers that cannot be pruned."""
        kernels, skipped = prunable_weights(student, self.choice)
        self.choice.check(student, skipped)
        if not kernels:
            reasons = "; ".join(f"'{path}': {reason}" for path, reason in list(skipped.items())[:5])
            raise ValueError(
                f"Prune finds no kernel to prune in model '{student.name}'"
                f"{f' ({reasons})' if reasons else ''}. "
                "It prunes the kernels of trainable Dense, convolutional, Embedding, recurrent "
                "and attention layers: leave this stage out, or make such a layer trainable."
            )

    def make_schedule(self, steps: int) -> Any:
        """Return the schedule of a training of `steps` steps."""
        if self.schedule is not None:
            return self.schedule
        # TF-MOT counts steps from 1.
        begin = min(1 + int(self.begin * steps), steps)
        last = min(max(int(self.end * steps), begin), steps)
        frequency = self.frequency or max(1, (last - begin) // 100)
        # The decay must be evaluated at its very end: the end is a whole number of updates away.
        last = begin + (last - begin) // frequency * frequency
        schedules = import_tfmot().sparsity.keras
        if last == begin:
            return schedules.ConstantSparsity(self.sparsity, begin, begin, frequency)
        return schedules.PolynomialDecay(0.0, self.sparsity, begin, last, frequency=frequency)

    def run(self, state: StudentState, teaching: Any) -> None:
        """Train with masks; the state's model stays a Keras 3 model."""
        steps = self.epochs * teaching.steps_per_epoch
        kernels, skipped = prunable_weights(state.model, self.choice)
        with teaching.keras_trainer(state, self.make_optimizer) as trainer:
            pruning = PruningCallback(kernels, self.make_schedule(steps), steps)
            history = trainer.fit(
                teaching.train,
                validation_data=teaching.validation_data,
                epochs=self.epochs,
                verbose=teaching.verbose,
                shuffle=isinstance(teaching.train, keras.utils.PyDataset),
                callbacks=[pruning],
            )
        state.history[self.name] = history.history
        state.pruned = True
        for path in kernels:
            state.note(path).done.append(f"pruned to {pruning.sparsity_of(path):.1%} zeros")
        for path, reason in skipped.items():
            state.note(path).not_done.append(f"not pruned: {reason}")

    def get_config(self) -> dict[str, Any]:
        """Return the configuration."""
        schedule = self.schedule
        return {
            **super().get_config(),
            "sparsity": self.sparsity,
            "begin": self.begin,
            "end": self.end,
            "schedule": None if schedule is None else schedule.get_config(),
            "frequency": self.frequency,
            **self.choice.get_config(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Stage:
        """Make a stage from `get_config()`."""
        config = choice_from_config(config)
        schedule = config.get("schedule")
        if isinstance(schedule, dict):
            schedules = import_tfmot().sparsity.keras
            config["schedule"] = getattr(schedules, schedule["class_name"]).from_config(
                schedule["config"]
            )
        return super().from_config(config)


class PruningCallback(keras.callbacks.Callback):
    """Drives TF-MOT's masks over the variables of a Keras 3 model.

    The order is that of `tfmot.sparsity.keras.prune_low_magnitude`: before each step the masks are
    updated where the schedule says so, then applied. After the training the sparsity is the
    schedule's last one, also where it ended early.

    Args:
        kernels: The variables to prune, by the path of their layer, as of `prunable_weights`.
        schedule: A TF-MOT schedule.
        steps: Number of steps of the whole training.
    """

    def __init__(self, kernels: dict[str, list[keras.Variable]], schedule: Any, steps: int) -> None:
        super().__init__()
        import_tfmot()
        from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl

        self._kernels = kernels
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._variables = [
            (
                weight.value,
                tf.Variable(tf.ones(weight.shape, weight.dtype), trainable=False),
                tf.Variable(tf.zeros([], weight.dtype), trainable=False),
            )
            for weights in kernels.values()
            for weight in weights
        ]

        def engine(schedule: Any) -> Any:
            return pruning_impl.Pruning(
                lambda: self._step, self._variables, schedule, (1, 1), "AVG"
            )

        self._engine = engine(schedule)
        self.target = final_sparsity(schedule, steps)
        constant = import_tfmot().sparsity.keras.ConstantSparsity(self.target, 0, -1, 1)
        final = engine(constant)

        @tf.function(autograph=False)
        def before_step() -> None:
            with tf.control_dependencies([self._engine.conditional_mask_update()]):
                self._engine.weight_mask_op()

        @tf.function(autograph=False)
        def apply() -> None:
            self._engine.weight_mask_op()

        @tf.function(autograph=False)
        def finish() -> None:
            with tf.control_dependencies([final.conditional_mask_update()]):
                final.weight_mask_op()

        self._before_step = before_step
        self._apply = apply
        self._finish = finish

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Update the masks if it is time, and apply them."""
        self._step.assign_add(1)
        self._before_step()

    def on_test_begin(self, logs: Any = None) -> None:
        """Apply the masks, so that validation sees the pruned student."""
        self._apply()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Apply the masks, so that what is saved is pruned."""
        self._apply()

    def on_train_end(self, logs: Any = None) -> None:
        """Apply the masks a last time; prune the rest where training ended early."""
        masked = [1.0 - float(tf.reduce_mean(mask)) for _, mask, _ in self._variables]
        expected = [
            1.0 - max(1, round(int(tf.size(mask)) * (1.0 - self.target))) / int(tf.size(mask))
            for _, mask, _ in self._variables
        ]
        if all(m >= e - 1e-3 for m, e in zip(masked, expected, strict=True)):
            self._apply()
            return
        warnings.warn(
            f"Training ended before the schedule reached a sparsity of {self.target:.0%}: the last "
            "weights were pruned without training after it. Train longer, or let the schedule "
            "end earlier.",
            stacklevel=2,
        )
        self._finish()

    def sparsity_of(self, path: str) -> float:
        """Return the fraction of zeros in the kernels of the layer at `path`."""
        kernels = [keras.ops.convert_to_numpy(weight.value) for weight in self._kernels[path]]
        return float(sum((k == 0).sum() for k in kernels) / sum(k.size for k in kernels))


def final_sparsity(schedule: Any, steps: int) -> float:
    """Return the sparsity that a TF-MOT schedule leads to.

    Args:
        schedule: The schedule.
        steps: Number of steps of the training, for schedules of one's own.
    """
    for attribute in ("final_sparsity", "target_sparsity"):
        if hasattr(schedule, attribute):
            return float(getattr(schedule, attribute))
    return float(np.asarray(schedule(tf.constant(steps, tf.int64))[1]))


def prunable_weights(
    model: keras.Model, choice: LayerChoice | None = None
) -> tuple[dict[str, list[keras.Variable]], dict[str, str]]:
    """Find the weights of a Keras 3 model that TF-MOT prunes in layers of the same class.

    Args:
        model: Any built Keras 3 model.
        choice: The layers to take into account. Defaults to `None`: all.

    Returns:
        The weights to prune by the path of their layer, and the reason by path for the layers with
        weights that are not pruned.
    """
    registry = _registry()
    kernels: dict[str, list[keras.Variable]] = {}
    skipped: dict[str, str] = {}
    seen: set[int] = set()
    for path, layer in leaf_layers(model):
        if not layer.weights:
            continue
        found, known = _layer_kernels(layer, registry)
        found = [weight for weight in found if id(weight) not in seen]
        seen |= {id(weight) for weight in found}
        spared = choice.reason_to_spare(path, layer) if found and choice else None
        if spared:
            skipped[path] = spared
        elif found and not any(weight.trainable for weight in found):
            skipped[path] = "it is not trainable"
        elif found:
            kernels[path] = found
        elif known:
            skipped[path] = f"TF-MOT does not prune {type(layer).__name__}"
        else:
            skipped[path] = f"{type(layer).__name__} holds no kernel that TF-MOT knows of"
    return kernels, skipped


def layer_kernels(layer: Any) -> list[keras.Variable]:
    """Return the kernels of a Keras 3 layer, with those of the layers that it is made of."""
    return _layer_kernels(layer, _registry())[0]


def _registry() -> dict[str, list[str]]:
    import_tfmot()
    from tensorflow_model_optimization.python.core.sparsity.keras import prune_registry

    registry = prune_registry.PruneRegistry
    names = {c.__name__: list(n) for c, n in registry._LAYERS_WEIGHTS_MAP.items()}
    names |= {c.__name__: list(n) for c, n in registry._RNN_CELLS_WEIGHTS_MAP.items()}
    # Keras 3 builds attention from EinsumDense, which TF-MOT prunes as a part of attention.
    return {**names, "EinsumDense": ["kernel"]}


def _layer_kernels(layer: Any, registry: dict[str, list[str]]) -> tuple[list[Any], bool]:
    for base in type(layer).__mro__:
        attributes = registry.get(base.__name__)
        if attributes is not None and base.__module__.startswith("keras."):
            return [_attribute(layer, name) for name in attributes], True
    kernels: list[Any] = []
    known = False
    for child in layer._layers:
        found, child_known = _layer_kernels(child, registry)
        kernels += found
        known = known or child_known
    return kernels, known


def _attribute(layer: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        layer = getattr(layer, name)
    return layer
