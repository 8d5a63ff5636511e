"""What trainers have in common, and the only place for Keras's private names of training."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self, TypeVar

import keras
import numpy as np
import tensorflow as tf
from keras.src.trainers.compile_utils import CompileLoss, CompileMetrics

from keras_kd.data.first_batch import first_batch, without_losing_the_first
from keras_kd.distilling.balancing import Data, balance
from keras_kd.distilling.callbacks import check_tensorboard, with_epoch_begin, with_progress_line
from keras_kd.distilling.checks.arguments import check_name
from keras_kd.distilling.checks.labels import short_errors, with_checked_labels
from keras_kd.distilling.checks.student_loss import check_validation, label_ranges
from keras_kd.distilling.dot import stacked
from keras_kd.distilling.loss_values import refuse_names
from keras_kd.distilling.schedules import Schedules, deserialize, deserialize_loss
from keras_kd.models.graph import flat_layers
from keras_kd.system.arguments import constructor_arguments, optimizer_rate
from keras_kd.system.names import argument_names, refuse_unknown
from keras_kd.system.remaking import made_again

_T = TypeVar("_T")


def has_several_workers(strategy: tf.distribute.Strategy) -> bool:
    """Return whether `strategy` trains in several processes at once."""
    return isinstance(
        strategy, tf.distribute.MultiWorkerMirroredStrategy
    ) and strategy.num_replicas_in_sync > len(strategy.extended.worker_devices)


@dataclasses.dataclass(frozen=True)
class CompileArguments:
    """The losses and metrics that a model was compiled with.

    They stand in an object of their own because Keras saves what it finds among a model's
    attributes, such as metrics in a list.

    Attributes:
        loss: The loss, or a structure of losses like the outputs'. Defaults to `None`.
        loss_weights: Weights of the outputs' losses. Defaults to `None`.
        metrics: The metrics. Defaults to `None`.
        weighted_metrics: The metrics that use sample weights. Defaults to `None`.
        output_names: The names of the outputs, by which all may be given. Defaults to `None`.
    """

    loss: Any = None
    loss_weights: Any = None
    metrics: Any = None
    weighted_metrics: Any = None
    output_names: Sequence[str] | None = None

    @property
    def has_metrics(self) -> bool:
        """Whether there are metrics of either kind."""
        return self.metrics is not None or self.weighted_metrics is not None

    def fresh(self) -> CompileArguments:
        """Return these arguments with copies of the metrics, without their state."""
        parts = {
            name: keras.tree.map_structure(_fresh, getattr(self, name))
            for name in ("metrics", "weighted_metrics")
        }
        return dataclasses.replace(self, **parts)

    def loss_function(self) -> Any:
        """Return a function `(y, y_pred, sample_weight) -> scalar`, or `None` without a loss."""
        if self.loss is None:
            return None
        return CompileLoss(self.loss, self.loss_weights, output_names=self.output_names)

    def metrics_object(self) -> Any:
        """Return the metrics as one `keras.metrics.Metric`, or `None` without metrics."""
        if not self.has_metrics:
            return None
        return CompileMetrics(self.metrics, self.weighted_metrics, output_names=self.output_names)


def compile_arguments(model: keras.Model) -> CompileArguments:
    """Return the losses and metrics that a model was compiled with.

    Args:
        model: A trainer of this package, or another `keras.Model`; one that is not compiled has
            none.
    """
    if isinstance(model, Trainer):
        return model.compile_arguments
    loss, metrics = model._compile_loss, model._compile_metrics
    return CompileArguments(
        getattr(loss, "_user_loss", None),
        getattr(loss, "_user_loss_weights", None),
        getattr(metrics, "_user_metrics", None),
        getattr(metrics, "_user_weighted_metrics", None),
        getattr(loss or metrics, "output_names", None),
    )


def direction_of(metric: keras.metrics.Metric) -> str | None:
    """Return `"up"` or `"down"`, where a metric, used once, is better; `None` if it is not known.

    Keras does not know it of functions and metrics of the user.
    """
    if isinstance(metric, (keras.metrics.FalsePositives, keras.metrics.FalseNegatives)):
        return "down"
    if isinstance(metric, (keras.metrics.TruePositives, keras.metrics.TrueNegatives)):
        return "up"
    found: str | None = getattr(metric, "_direction", None)
    return found


def once_data_is_there(step: Callable[[Any, Any], _T]) -> Callable[[Any, Any], _T]:
    """Let all of a `train_step` or `test_step` wait for its batch.

    Where the length of the data is not known, the step behind the last batch fails for lack of
    one. TensorFlow would run whatever in it needs no data until then: the optimizer would count a
    step and decay weights, and the metrics of outputs would count a batch. A step that XLA compiles
    is one operation, which waits.
    """

    @functools.wraps(step)
    def waiting(self: Any, data: Any) -> _T:
        if self.jit_compile:
            return step(self, data)
        parts = tf.nest.flatten(data, expand_composites=True)
        with tf.control_dependencies([part for part in parts if tf.is_tensor(part)]):
            return step(self, data)

    return waiting


class InsteadOnce:
    """Stands in for a model's training function once, whatever that ends in.

    Args:
        model: The model.
        function: A function that takes an iterator of the data and returns logs.
    """

    def __init__(self, model: keras.Model, function: Callable[[Any], Any]) -> None:
        self.train_function = model.train_function
        self._model, self._function = model, function

    def __call__(self, iterator: Any) -> Any:
        """Put the training function back, and call the other one."""
        self._model.train_function = self.train_function
        return self._function(iterator)


def begin_at_epoch(model: keras.Model, epoch: int | None) -> None:
    """Let a `fit` whose callbacks are called just now begin at an epoch.

    Args:
        model: The model that is trained. What an earlier training that ended in an error left in
            it is forgotten.
        epoch: The epoch, counted from 0; `None` for the one that `fit` was given.
    """
    model._initial_epoch = epoch
    if isinstance(model.train_function, InsteadOnce):
        model.train_function = model.train_function.train_function


# What a callback of Keras keeps from epoch to epoch in private attributes.
PRIVATE_STATES = {keras.callbacks.SwapEMAWeights: "_ema_weights_in_model"}


def averages_of(optimizer: Any) -> list[tuple[Any, Any]]:
    """Return pairs of a trained variable and its moving average; none without `use_ema`.

    Args:
        optimizer: An optimizer, or `None`.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    found = []
    for part in getattr(optimizer, "optimizers", None) or [optimizer]:
        averages = getattr(part, "_model_variables_moving_average", ())
        found += [*zip(getattr(part, "_trainable_variables", ()), averages, strict=False)]
    return [(variable, average) for variable, average in found if average is not None]


def with_loss_scale(optimizer: Any, student: keras.Model) -> Any:
    """Return an optimizer that scales the loss where a layer of the student computes in float16.

    Keras looks at the policy of the model that is compiled, which here is not the student.

    Args:
        optimizer: An optimizer, or `None`.
        student: The student.
    """
    if optimizer is None or isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return optimizer
    if all(layer.dtype_policy.compute_dtype != "float16" for layer in flat_layers(student)):
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer, name="loss_scale_optimizer")


def without_decay(optimizer: Any, variables: Sequence[Any]) -> dict[str, Any] | None:
    """Return which weights an optimizer leaves out of weight decay; `None` where it leaves none.

    Keras's configuration does not hold them.

    Args:
        optimizer: An optimizer, or `None`.
        variables: The variables that it trains.

    Returns:
        `"var_names"`, patterns of names, and `"positions"`, those of single variables.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    pattern = getattr(optimizer, "_exclude_from_weight_decay_pattern", None)
    single = getattr(optimizer, "_exclude_from_weight_decay", None) or ()
    if pattern is None and not single:
        return None
    return {
        "var_names": None if pattern is None else [pattern.pattern],
        "positions": [i for i, v in enumerate(variables) if optimizer._var_key(v) in single],
    }


def schedule_of(optimizer: keras.optimizers.Optimizer) -> Any:
    """Return the schedule of an optimizer's learning rate; `None` if that is a number."""
    rate = getattr(getattr(optimizer, "inner_optimizer", optimizer), "_learning_rate", None)
    return rate if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule) else None


def fresh_optimizer(
    optimizer: keras.optimizers.Optimizer, **changes: Any
) -> keras.optimizers.Optimizer:
    """Return an optimizer without a state that takes the same steps.

    Keras's configuration does not hold which variables have no weight decay.

    Args:
        optimizer: An optimizer, built or not.
        **changes: Entries of its configuration that are to be other ones; of the inner one, where
            an optimizer scales the loss of another.

    Raises:
        ValueError: If single variables were excluded from weight decay, which another model does
            not have.
    """
    inner = getattr(optimizer, "inner_optimizer", None)
    if changes and inner is not None:
        made = made_again(inner, **changes)
        changes = {"inner_optimizer": keras.saving.serialize_keras_object(made)}
    copy: keras.optimizers.Optimizer = made_again(optimizer, **changes)
    given, made = (getattr(each, "inner_optimizer", each) for each in (optimizer, copy))
    excluded = without_decay(given, ())
    if excluded is None:
        return copy
    if given._exclude_from_weight_decay:
        raise ValueError(
            "An optimizer that excludes single variables from weight decay cannot train another "
            f"model. Received: optimizer={given.name!r}. Name them by "
            '`exclude_from_weight_decay(var_names=["bias", "gamma"])`.'
        )
    made.exclude_from_weight_decay(var_names=excluded["var_names"])
    return copy


class Trainer(keras.Model):
    """What `Distiller` and `MutualDistiller` stand on: a model that trains students.

    It keeps the arguments of `compile`, looks at the data before `fit`, tells which epoch begins,
    and runs under every synchronous strategy of TensorFlow. Under
    `tf.distribute.MultiWorkerMirroredStrategy` `fit` and `evaluate` of `keras.Model` fail (Keras
    3.15): on the first batch, which they average over the workers to learn its shape, and on the
    logs, which they average along an axis that scalars do not have. The logs of an epoch are here
    always the metrics of all replicas, also where a step returns a part of them.

    A subclass writes `learners()`, the distillers that are trained, each with one `student`;
    `begin_epoch(epoch)`, which sets what depends on the epoch, counted from 0; `check_models()`,
    which refuses models that cannot be trained; and `check_data(batch)`, which refuses a first
    batch (`None` where there was no look at it) and builds what needs one for its shape.

    Attributes:
        compile_arguments: The losses and metrics given to `compile`.
    """

    optimizer: Any
    compile_arguments = CompileArguments()

    def __init__(self, **kwargs: Any) -> None:
        of_keras = argument_names(keras.layers.Layer.__init__)
        known = [*constructor_arguments(type(self)), *of_keras]
        refuse_unknown(type(self).__name__, kwargs, dict.fromkeys(known))
        # With a policy of half precision Keras would round inputs before the student sees them.
        super().__init__(**{"autocast": False, **kwargs})
        check_name(self, "distiller")

    @property
    def own_names(self) -> Sequence[str]:
        """The names in the logs that no metric may have."""
        return ()

    @property
    def by_epoch(self) -> bool:
        """Whether anything depends on the epoch."""
        return True

    def compile(self, **arguments: Any) -> None:
        """Configure training, as `keras.Model.compile` does, and keep what it was given.

        Raises:
            ValueError: If `jit_compile` is `True` although a loss has a `chunk_size`, or the
                optimizer's learning rate is negative or not finite.
        """
        if arguments.get("jit_compile") is True and (chunked := self._losses_in_chunks()):
            raise ValueError(
                f"{type(chunked[0]).__name__} has a `chunk_size`, and XLA cannot compile a loss "
                "that is computed in chunks; it fuses the whole one. Leave out `chunk_size`, or "
                "compile(..., jit_compile=False)."
            )
        self.forget_measures()
        super().compile(**arguments)
        names = ("loss", "loss_weights", "metrics", "weighted_metrics")
        kept = {name: arguments.get(name) for name in names}
        kept["output_names"] = getattr(self, "output_names", None)
        self.compile_arguments = CompileArguments(**kept)
        optimizer_rate(self.optimizer, "compile")
        self._auto_scale_loss = arguments.get("auto_scale_loss", True)
        if self._auto_scale_loss:
            for learner in self.learners():
                self.optimizer = with_loss_scale(self.optimizer, learner.student)

    def get_compile_config(self) -> dict[str, Any]:
        """Return the arguments of `compile`, serialized, with those that Keras leaves out."""
        config: dict[str, Any] = super().get_compile_config()
        if config:
            config["auto_scale_loss"] = self._auto_scale_loss
            if excluded := without_decay(self.optimizer, self.trainable_variables):
                config["without_decay"] = excluded
        return config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile with the arguments of `get_compile_config()`."""
        arguments = keras.saving.deserialize_keras_object(config)
        excluded = arguments.pop("without_decay", None)
        self.compile(**arguments)
        if excluded is not None:
            optimizer = getattr(self.optimizer, "inner_optimizer", self.optimizer)
            single = [self.trainable_variables[i] for i in excluded["positions"]]
            optimizer.exclude_from_weight_decay(single, excluded["var_names"])
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of `keras.Model`."""
        policy = keras.dtype_policies.serialize(self.dtype_policy)
        return {"name": self.name, "dtype": policy, "autocast": self.autocast}

    def schedules(self) -> list[list[Schedules]]:
        """Return the schedules that each learner is trained with, all of the same values."""
        return [[learner.objective.schedules] for learner in self.learners()]

    def forget_measures(self) -> None:
        """Train without Keras's own losses and metrics; it would keep those of an earlier time."""
        self._compile_loss = self._compile_metrics = None

    def student_loss(self) -> Any:
        """Return the compiled loss, called as `loss(y, y_pred, sample_weight)`, or `None`."""
        return self._compile_loss

    def build_measures(self, labels: Any, y_pred: Any) -> None:
        """Make the variables of the compiled loss and metrics, which Keras would make in a step.

        Args:
            labels: Labels of a batch.
            y_pred: The outputs for it.
        """
        for part in (self._compile_loss, self._compile_metrics):
            if part is not None and not part.built:
                part.build(labels, y_pred)

    def random_states(self) -> list[keras.Variable]:
        """Return the states of random layers, which are not among the weights."""
        return [state.state for layer in flat_layers(self) for state in layer._seed_generators]

    def save_own_variables(self, store: Any) -> None:
        """Save what Keras leaves out: random states, balanced weights, values of schedules."""
        for i, state in enumerate(self.random_states()):
            store[str(i)] = state.numpy()
        for i, learner in enumerate(self.learners()):
            if learner.balances and not learner.objective.unbalanced:
                store[f"weights_{i}"] = np.array(learner.distillation_loss_weights, "float64")
            if values := [v.numpy() for v in self.schedules()[i][0].variables]:
                store[f"schedules_{i}"] = np.array(values, "float32")

    def load_own_variables(self, store: Any) -> None:
        """Load what `save_own_variables` saved; random states where the layers are the same."""
        states, names = self.random_states(), list(store.keys())
        if sum(name.isdigit() for name in names) == len(states):
            for i, state in enumerate(states):
                state.assign(store[str(i)])
        for i, learner in enumerate(self.learners()):
            if f"schedules_{i}" in names:
                for schedules in self.schedules()[i]:
                    values = store[f"schedules_{i}"]
                    for variable, value in zip(schedules.variables, values, strict=True):
                        variable.assign(value)
            if learner.balances and f"weights_{i}" in names:
                learner.objective.distillation_loss_weights = [*map(float, store[f"weights_{i}"])]
                if self.train_function is not None:
                    self.make_train_function(force=True)
                self.test_function = None

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Train, as `keras.Model.fit` does, after one look at the data.

        Raises:
            ImportError: If a callback needs a package that is not installed.
            ValueError: If models or data do not fit.
        """
        bound = inspect.signature(keras.Model.fit).bind(self, x, y, *args, **kwargs)
        arguments = dict(bound.arguments)
        del arguments["self"]
        check_tensorboard(arguments.get("callbacks"))
        if self.compiled:
            self._look_at_data(arguments)
        if isinstance(arguments["x"], (tf.data.Dataset, Iterator)):
            # These come in an order of their own; Keras warns of its own default otherwise.
            arguments.setdefault("shuffle", False)
        if self.by_epoch:
            arguments["callbacks"] = with_epoch_begin(self, arguments.get("callbacks"))
        if arguments.get("verbose", "auto"):
            arguments["callbacks"] = with_progress_line(arguments.get("callbacks"))
        begin_at_epoch(self, None)
        with short_errors():
            return super().fit(**arguments)

    def check_validation(self, data: Any) -> None:
        """Refuse validation data on which an epoch would end in an error.

        Args:
            data: What `fit` takes as `validation_data`.

        Raises:
            ValueError: Saying what does not fit.
        """
        for learner in self.learners():
            check_validation(data, learner.student, learner.compile_arguments.loss)

    def _look_at_data(self, arguments: dict[str, Any]) -> None:
        self.check_models()
        x, batch = without_losing_the_first(arguments["x"])
        validation = arguments.get("validation_data")
        with self.distribute_strategy.scope():
            batch = batch or first_batch(x, arguments["y"], arguments.get("sample_weight"))
            self.check_data(batch)
            self.check_validation(validation)
            for learner in self.learners():
                if learner.objective.unbalanced:
                    verbose = arguments.get("verbose", 1) not in (0, "0")
                    balance(learner, Data.of_fit(arguments, x), verbose)
        first, ranges = self.learners()[0], []
        if batch is not None and batch.labels is not None:
            ranges = label_ranges(first.compile_arguments.loss, first.student, batch.inputs)
        arguments["x"] = with_checked_labels(x, ranges)
        arguments["validation_data"] = with_checked_labels(validation, ranges)
        if arguments.get("class_weight") and batch is not None and batch.labels is None:
            raise ValueError(
                "`fit` received `class_weight`, which weighs an example by its label, but the "
                "data holds no labels. Pass labels `y`, or leave `class_weight` out."
            )

    @property
    def takes_two_gradients(self) -> bool:
        """Whether the optimizer takes the gradients of labels and teacher apart."""
        optimizer = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        return getattr(optimizer, "takes_two_gradients", False)

    def _descend(
        self, tape: tf.GradientTape, loss: Any, variables: Sequence[Any], of_teacher: Any = None
    ) -> None:
        """Take a step down the gradient of a loss that `optimizer.scale_loss` returned.

        Args:
            tape: The tape, a persistent one with `of_teacher`.
            loss: The loss.
            variables: The variables.
            of_teacher: Another loss whose gradient the optimizer takes apart. Defaults to `None`.
        """
        gradients = tape.gradient(loss, variables)
        if of_teacher is not None:
            gradients = list(map(stacked, gradients, tape.gradient(of_teacher, variables)))
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))

    def _track_loss(self, total: Any, x: Any) -> tuple[Any, int]:
        """Count the loss of a batch into the mean; return the batch's size and the replicas."""
        batch_size = tf.shape(keras.tree.flatten(x)[0])[0]
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        self._loss_tracker.update_state(total * replicas, sample_weight=batch_size)
        return batch_size, replicas

    def _regularization(self, *others: Sequence[keras.layers.Layer]) -> Any:
        """Return the sum of the losses that layers add, divided by the number of replicas.

        Args:
            others: Layers beside those of this model.
        """
        added = [loss for layers in others for layer in layers for loss in layer.losses]
        losses = [
            keras.ops.cast(self._aggregate_additional_loss(loss), "float32")
            for loss in [*self.losses, *added]
        ]
        return keras.ops.sum(keras.ops.stack(losses)) if losses else 0.0

    def _step(self) -> Any:
        optimizer: Any = getattr(self, "optimizer", None)
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        # What learning rate schedules are evaluated at, also where gradients are accumulated.
        return 0 if optimizer is None else optimizer._iterations

    def _supports_xla(self) -> bool:
        """Return whether XLA can compile what Keras does not find among the layers."""
        return not self._losses_in_chunks()

    def _losses_in_chunks(self) -> list[Any]:
        losses = [learner.distillation_losses for learner in self.learners()]
        parts = [getattr(part, "loss", part) for part in keras.tree.flatten(losses)]
        return [part for part in parts if not getattr(part, "supports_jit", True)]

    def _resolve_auto_jit_compile(self) -> bool:
        return super()._resolve_auto_jit_compile() and self._supports_xla()

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        if iterator is not None and self._distribute_strategy is not None:
            for _, _, batches in iterator:
                data_batch = keras.tree.map_structure(self._of_one_replica, next(batches))
                break
        super()._maybe_symbolic_build(data_batch=data_batch)

    def _of_one_replica(self, value: Any) -> Any:
        return self.distribute_strategy.experimental_local_results(value)[0]

    def _make_function(self, step_function: Callable[[Any], Any]) -> Any:
        if not has_several_workers(self.distribute_strategy):
            return super()._make_function(step_function)

        @tf.autograph.experimental.do_not_convert
        def step(data: Any) -> Any:
            return keras.tree.map_structure(
                lambda value: tf.expand_dims(value, 0), step_function(data)
            )

        return super()._make_function(step)

    def _get_metrics_result_or_logs(self, logs: Any) -> Any:
        if not isinstance(logs, dict):
            return logs
        results = self.get_metrics_result()
        return {name: results.get(name, value) for name, value in logs.items()}

    def get_metrics_result(self) -> dict[str, Any]:
        """Return the present values of all metrics; those on labels once labels were seen."""
        return self.metrics_result()

    def metrics_result(self, labels: bool = True) -> dict[str, Any]:
        """Return the present values of all metrics, or of those alone that need no labels.

        Raises:
            ValueError: If one has the name of a loss of the distiller.
        """
        found: dict[str, Any] = {}
        others: list[str] = []
        on_labels, own = self._compile_metrics, [self._loss_tracker, *self._metrics]
        for metric in self.metrics:
            if metric is on_labels and not (labels and on_labels.built):
                continue
            result = metric.result()
            result = result if isinstance(result, dict) else {metric.name: result}
            found.update(result)
            if all(metric is not each for each in own):
                others += result
        refuse_names(others, self.own_names)
        return found

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Self:
        """Make a trainer from `get_config()`; the teacher of a `Distiller` must be set again."""
        config = dict(config)
        for key in _SERIALIZED & config.keys():
            config[key] = deserialize(config[key], custom_objects)
        losses = deserialize_loss(config["distillation_losses"], custom_objects)
        return cls(**{**config, "distillation_losses": losses})


_SERIALIZED = {
    "teacher", "student", "peers", "distillation_loss_weights", "student_loss_weight",
    "teacher_inputs", "teacher_outputs", "generate",
}  # fmt: skip


def _fresh(part: Any) -> Any:
    return made_again(part) if isinstance(part, keras.metrics.Metric) else part
