"""Prune: set the smallest weights of a student to zero while it learns."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_kd.compression.pruning.callback import PruningCallback
from keras_kd.compression.pruning.masks import global_masks, tfmot_masks
from keras_kd.compression.pruning.times import default_schedule
from keras_kd.compression.stages.kernels import PrunableWeight, prunable_weights
from keras_kd.compression.stages.stage import Plan, Stage, StudentState
from keras_kd.models.layer_choice import first_reasons
from keras_kd.models.layer_plan import LayerPlan, Reason
from keras_kd.models.tfmot import import_tfmot
from keras_kd.system.arguments import number
from keras_kd.system.names import one_of

_LOOKED_UP = Reason(
    "its rows are looked up: there is no product along whose inputs `sparsity_m_by_n` could run",
    "prune it in a stage of its own, by `sparsity`",
)


@keras.saving.register_keras_serializable(package="keras_kd")
class Prune(Stage):
    """Prunes a student by magnitude, with TF-MOT's masks and schedules.

    Before each step, where the schedule says so, the weights of smallest magnitude are masked; the
    forward pass never sees a masked weight other than zero. Kernels of dense and convolutional
    layers, embeddings, recurrent cells and attention are pruned; biases, normalization and
    depthwise kernels are not, as in TF-MOT. The student stays a Keras 3 model, which may be
    subclassed, and its masked weights are exactly zero.

    Args:
        sparsity: Fraction of weights to set to zero, at least 0 and below 1. Defaults to `0.5`.
        epochs: Number of epochs of training; with 0 the weights are pruned at once. Defaults to
            `1`.
        begin: Fraction of the training after which pruning begins. Defaults to `0.0`.
        end: Fraction of the training after which the masks are fixed. Defaults to `0.75`.
        schedule: A `tfmot.sparsity.keras` schedule (`ConstantSparsity`, `PolynomialDecay`, or your
            own), in place of `sparsity`, `begin`, `end` and `frequency`. Defaults to
            `None`: a cubic decay from no zeros to `sparsity`.
        frequency: Steps between two updates of the masks. Defaults to `None`: about 100 updates.
        scope: `"layer"`, each kernel reaches the sparsity by itself, or `"global"`, one threshold
            over all kernels: together they reach it, to the rounding of one weight. With `"layer"`
            all weights that equal the smallest one kept stay, as in TF-MOT; a warning says where a
            kernel then has fewer zeros. Defaults to `"layer"`.
        max_layer_sparsity: With `scope="global"`, the largest fraction of zeros in one kernel.
            Defaults to `None`: only its largest weight is sure to stay.
        block_size: Height and width of the blocks that are pruned as one, in the matrix of inputs
            by outputs; a convolution's is `[height * width * channels, filters]`. Defaults to
            `(1, 1)`.
        block_pooling_type: What blocks are compared by, `"AVG"` or `"MAX"` of the magnitudes.
            Defaults to `"AVG"`.
        sparsity_m_by_n: `(2, 4)` sets two weights to zero in each four that follow each other
            along the inputs of a product, whatever the layer (the input channels of a transposed
            convolution, too), the pattern that sparse kernels are written for. Embeddings, which
            look rows up, are left alone. The masks are chosen once, as in TF-MOT, before the first
            step or after the fraction `begin`; `end`, `schedule` and `frequency` are refused.
            Defaults to `None`.
        layers: The layers to prune, as in `Stage`. Defaults to `None`: all that can be.
        exclude: The layers to spare, as in `Stage`. Defaults to `None`: none.
        optimizer: As in `Stage`. Defaults to `None`: Adam.
        learning_rate: As in `Stage`. Defaults to `None`: `1e-3`.
        name: As in `Stage`. Defaults to `"prune"`.

    Raises:
        ValueError: If an argument is out of range, or two of them exclude each other.

    Example:

    ```python
    compressed = keras_kd.compress(
        distiller, train, validation_data=validation, stages=[keras_kd.Prune(0.75, epochs=4)]
    )
    ```

    In your own `fit`, of a `Distiller` or of any Keras model:

    ```python
    distiller.fit(train, epochs=4, callbacks=[keras_kd.Prune(0.75).as_callback()])
    ```

    References:
        Zhu and Gupta, To Prune, or Not to Prune, 2017, arXiv:1710.01878.
        Mishra et al., Accelerating Sparse Deep Neural Networks, 2021, arXiv:2104.08378
        (`sparsity_m_by_n`).
    """

    default_learning_rate = 1e-3

    def __init__(
        self,
        sparsity: float = 0.5,
        epochs: int = 1,
        begin: float = 0.0,
        end: float = 0.75,
        schedule: Any = None,
        frequency: int | None = None,
        scope: str = "layer",
        max_layer_sparsity: float | None = None,
        block_size: Sequence[int] = (1, 1),
        block_pooling_type: str = "AVG",
        sparsity_m_by_n: Sequence[int] | None = None,
        layers: Any = None,
        exclude: Any = None,
        optimizer: Any = None,
        learning_rate: Any = None,
        name: str | None = None,
    ) -> None:
        super().__init__(epochs, optimizer, learning_rate, name, layers, exclude)
        self.sparsity, self.begin, self.end = sparsity, begin, end
        self.schedule, self.frequency = schedule, frequency
        self.scope, self.max_layer_sparsity = scope, max_layer_sparsity
        self.block_size, self.block_pooling_type = block_size, block_pooling_type
        self.sparsity_m_by_n = sparsity_m_by_n
        check_prune_arguments(self)

    def make_plan(self, student: keras.Model, earlier: Sequence[Stage]) -> Plan:
        """Decide which layers are pruned, and why others are not."""
        kernels, skipped = self.kernels_of(student)
        action = f"prune {self.sparsity:.0%}"
        if self.schedule is not None or self.scope == "global":
            action = "prune"
        elif self.sparsity_m_by_n is not None:
            action = "prune {} of {}".format(*self.sparsity_m_by_n)
        layers = {path: LayerPlan(action) for path in kernels}
        layers |= {path: LayerPlan.spared(reason) for path, reason in skipped.items()}
        return Plan(layers, functools.partial(self._apply, kernels, layers))

    def _apply(
        self,
        kernels: Mapping[str, Sequence[PrunableWeight]],
        layers: Mapping[str, LayerPlan],
        state: StudentState,
        teaching: Any,
    ) -> None:
        pruning = PruningCallback(self, state.model, teaching.steps_per_epoch, kernels)
        with teaching.keras_trainer(state, self.make_optimizer) as trainer:
            pruning.prepare(trainer)
            if self.epochs == 0:
                pruning.prune_at_once()
            state.history[self.name] = teaching.fit(
                trainer, self.epochs, [pruning], pruning.variables
            )
        state.pruned = True
        state.take_notes(
            layers, "not pruned", lambda path: f"pruned to {pruning.sparsity_of(path):.1%} zeros"
        )

    def kernels_of(
        self, model: keras.Model
    ) -> tuple[dict[str, list[PrunableWeight]], dict[str, str]]:
        """Return the kernels to prune, and the reasons not to prune others, by path of the layer.

        Args:
            model: A built Keras 3 model.

        Raises:
            ValueError: If there is none, or `layers` or `exclude` names a layer that does not
                exist.
        """
        kernels, skipped = prunable_weights(model, self.choice)
        if self.sparsity_m_by_n is not None:
            summed = {
                path: [weight for weight in weights if weight.input_axes is not None]
                for path, weights in kernels.items()
            }
            kernels = {path: weights for path, weights in summed.items() if weights}
            skipped |= {path: _LOOKED_UP for path in summed if path not in kernels}
        self.choice.check(model, skipped)
        if not kernels:
            raise ValueError(
                f"Prune finds no kernel to prune in model '{model.name}'"
                f"{first_reasons(skipped)}. "
                "It prunes the kernels of trainable Dense, convolutional, Embedding, recurrent "
                "and attention layers: leave this stage out, or make such a layer trainable."
            )
        return kernels, skipped

    def make_schedule(self, steps: int | None) -> Any:
        """Return the schedule of a training.

        Args:
            steps: Its number of steps; `None` where it is not known.

        Raises:
            ValueError: If it is not known and there is no schedule that does without.
        """
        if self.sparsity_m_by_n is not None:
            # TF-MOT chooses these masks in its first step, whatever its schedule.
            first = 1
            if self.begin > 0.0:
                first += min(int(self.begin * self._known(steps)), self._known(steps) - 1)
            constant = import_tfmot().sparsity.keras.ConstantSparsity
            return constant(self.sparsity, first, first, 1)
        if self.schedule is not None:
            return self.schedule
        return default_schedule(
            self.sparsity, self._known(steps), self.begin, self.end, self.frequency
        )

    def _known(self, steps: int | None) -> int:
        if steps is None:
            raise ValueError(
                "Prune spreads its schedule over the whole training, but the data does not know "
                "its length. Give the number of batches: as_callback(steps_per_epoch=...), or a "
                "`schedule` of steps."
            )
        return steps

    def new_masks(
        self, weights: Sequence[PrunableWeight], values: Sequence[tf.Tensor], sparsity: tf.Tensor
    ) -> list[tf.Tensor]:
        """Return the masks for values of kernels at a sparsity, a float64 scalar."""
        if self.scope == "global":
            return global_masks(weights, values, sparsity, self.max_layer_sparsity)
        return tfmot_masks(
            weights,
            values,
            tf.cast(sparsity, tf.float32),
            self.block_size,
            self.block_pooling_type,
            self.sparsity_m_by_n,
        )

    def as_callback(
        self, model: keras.Model | None = None, steps_per_epoch: int | None = None
    ) -> keras.callbacks.Callback:
        """Return a callback that prunes during `fit`, of a `Distiller` or of any Keras model.

        The schedule is spread over the epochs of that `fit`; the stage's `epochs`, `optimizer` and
        `learning_rate` are not used. `keras_kd.BackupAndRestore` saves and restores the masks.
        Weights that a callback such as `EarlyStopping(restore_best_weights=True)` restores at the
        end are pruned again, with a warning if they had fewer zeros, in any order of the callbacks.
        `fit` logs the fraction of masked weights as `sparsity`.

        Args:
            model: The model to prune, if it is only a part of the trained model. Defaults to
                `None`: the trained model, or the student of a `Distiller`.
            steps_per_epoch: Number of batches in an epoch, for data that does not know its length.
                Defaults to `None`.
        """
        return PruningCallback(self, model, steps_per_epoch)

    def with_epochs(self, epochs: int) -> Stage:
        """Return a copy with another number of epochs, and its schedules stretched to match."""
        made = super().with_epochs(epochs)
        if self.schedule is None or epochs == self.epochs:
            return made
        config = self.schedule.get_config()["config"]
        steps = {
            name: max(1, round(config[name] * epochs / self.epochs))
            for name in ("begin_step", "end_step", "frequency")
            if config.get(name, 0) > 0
        }
        return made.changed(schedule=type(self.schedule).from_config({**config, **steps}))

    def gentler(self) -> Stage | None:
        """Return a stage that keeps half as many weights again; `None` where it has no sparsity."""
        sparsity = 1.0 - 1.5 * (1.0 - self.sparsity)
        if self.schedule is not None or self.sparsity_m_by_n is not None or sparsity < 0.05:
            return None
        return self.changed(sparsity=round(sparsity, 4))

    def at_strength(self, strength: float) -> Stage:
        """Return a stage of a part of the sparsity."""
        if self.schedule is not None or self.sparsity_m_by_n is not None:
            return self
        return self.changed(sparsity=round(strength * self.sparsity, 4))

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Stage:
        """Make a stage from `get_config()`."""
        schedule = config.get("schedule")
        if isinstance(schedule, dict):
            schedules = import_tfmot().sparsity.keras
            made = getattr(schedules, schedule["class_name"]).from_config(schedule["config"])
            config = {**config, "schedule": made}
        return super().from_config(config)


_DEFAULT_SPARSITY = 0.5
_DEFAULT_END = 0.75


def check_prune_arguments(prune: Prune) -> None:
    """Check the arguments of a `Prune`, which describes them, and give them their types.

    Raises:
        ValueError: If one is out of range, or two exclude each other.
    """
    number(
        "sparsity",
        prune.sparsity,
        least=0,
        below=1,
        owner="Prune",
        advice="It is the fraction of zeros: for three zeros in four weights write Prune(0.75).",
    )
    advice = "It is a fraction of the training"
    number("end", prune.end, least=0, most=1, owner="Prune", advice=f"{advice}.")
    number(
        "begin",
        prune.begin,
        least=0,
        most=prune.end if prune.sparsity_m_by_n is None else 1,
        owner="Prune",
        advice=f"{advice}, not above `end`.",
    )
    number("frequency", prune.frequency, least=1, whole=True, optional=True, owner="Prune")
    one_of("block_pooling_type", prune.block_pooling_type, ("AVG", "MAX"), "Prune")
    prune.begin, prune.end = float(prune.begin), float(prune.end)
    prune.block_size = _two_integers("block_size", prune.block_size, "(1, 4)")
    if prune.sparsity_m_by_n is not None:
        prune.sparsity_m_by_n = _two_integers("sparsity_m_by_n", prune.sparsity_m_by_n, "(2, 4)")
        _check_chosen_once(prune)
        prune.sparsity = _check_m_by_n(prune.sparsity_m_by_n, prune.block_size, prune.sparsity)
    prune.sparsity = float(prune.sparsity)
    _check_scope(prune)


def _check_chosen_once(prune: Prune) -> None:
    unused = {
        "schedule": prune.schedule is not None,
        "end": prune.end != _DEFAULT_END,
        "frequency": prune.frequency is not None,
    }
    for argument, given in unused.items():
        if given:
            raise ValueError(
                f"Prune: the masks of `sparsity_m_by_n` are chosen once, without `{argument}`. "
                f"Received: {argument}={getattr(prune, argument)!r}. Leave `{argument}` out, and "
                "give `begin`, a fraction of the training, to choose them later."
            )


def _check_m_by_n(m_by_n: Sequence[int], block: Sequence[int], sparsity: float) -> float:
    zeros, group = m_by_n
    if zeros >= group:
        raise ValueError(
            f"Prune: `sparsity_m_by_n` is (zeros, group) with fewer zeros than weights in a group. "
            f"Received: {m_by_n}. For two zeros in each four write (2, 4)."
        )
    if block != (1, 1):
        raise ValueError(
            f"Prune: `sparsity_m_by_n={m_by_n}` and `block_size={block}` are two patterns. Give "
            "one of them."
        )
    if sparsity not in (_DEFAULT_SPARSITY, zeros / group):
        raise ValueError(
            f"Prune: `sparsity_m_by_n={m_by_n}` is a sparsity of {zeros / group:g}, but `sparsity` "
            f"is {sparsity}. Leave `sparsity` out."
        )
    return zeros / group


def _check_scope(prune: Prune) -> None:
    scope, ceiling = prune.scope, prune.max_layer_sparsity
    one_of("scope", scope, ("layer", "global"), "Prune")
    if scope == "global" and (prune.block_size != (1, 1) or prune.sparsity_m_by_n is not None):
        raise ValueError(
            'Prune: `scope="global"` compares single weights of all layers, which '
            '`block_size` and `sparsity_m_by_n` do not prune. Use scope="layer" with them.'
        )
    if ceiling is None:
        return
    if scope != "global":
        raise ValueError(
            'Prune: `max_layer_sparsity` bounds what scope="global" may take from one layer, but '
            f"`scope` is {scope!r}: every layer has the same sparsity. Leave it out."
        )
    number(
        "max_layer_sparsity",
        ceiling,
        least=prune.sparsity,
        most=1,
        owner="Prune",
        advice=f"Below sparsity={prune.sparsity} the sparsity could not be reached.",
    )


def _two_integers(argument: str, value: Any, example: str) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(pair) != 2 or not all(isinstance(n, int) and n >= 1 for n in pair):
        raise ValueError(
            f"Prune: `{argument}` must be two whole numbers of at least 1, such as {example}. "
            f"Received: {value!r}."
        )
    return pair
