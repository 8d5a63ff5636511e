"""OnPolicyDistiller: a language model learns from the teacher on texts that it wrote itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_kd.data.first_batch import FirstBatch
from keras_kd.data.taught_inputs import student_inputs
from keras_kd.distilling.distiller import Distiller
from keras_kd.distilling.loss_values import LOGGED
from keras_kd.distilling.schedules import serialize
from keras_kd.distilling.trainer import once_data_is_there
from keras_kd.models.structures import leaves
from keras_kd.system.arguments import number

Writer = Callable[[dict[str, Any], keras.random.SeedGenerator], Mapping[str, Any]]


@keras.saving.register_keras_serializable(package="keras_kd")
class OnPolicyDistiller(Distiller):
    """A `Distiller` for causal language models: the student writes, and the teacher grades.

    For a share of the batches the student continues the prompts itself, each token sampled from its
    own probabilities. The distillation losses compare both models at every token that it wrote. So
    the student is taught what to do after its own mistakes, which no training data contains. Such a
    text has no labels: the loss on labels, and the metrics, count the other batches alone. Sampling
    receives no gradient.

    The loss of a batch that the student wrote is `(1 - w) * sum(w_i * L_i)`, in which each written
    token weighs as much as one of the data. Prompts, what follows a stop token, and the last
    position, whose next token is not written, weigh 0. The logs report `sum(w_i * L_i)` of these
    batches as `on_policy_loss`, and that of the data as `distillation_loss`.

    `seed` and the optimizer's step decide which batches these are, and what is sampled: a training
    resumed by `keras_kd.BackupAndRestore` ends as an uninterrupted one. In the published algorithm
    each batch is the student's with probability `student_fraction`; here the batches are spread
    evenly, so that the share holds in every part of the training. With `steps_per_execution=k`
    the `k` batches of an execution are of one kind.

    Batches are `(inputs, labels, sample_weight)`, the last two optional, as a preprocessor of
    KerasHub makes them: `inputs` are `[batch, time]` token numbers, or a dictionary with
    `"token_ids"` and, for texts of different lengths padded at the end, `"padding_mask"`; label and
    weight of a position are those of the next token. The teacher's outputs may be cached for the
    data; it runs for what the student wrote. `kd.compress` trains its stages on the data alone.

    Args:
        teacher: As in `Distiller`.
        student: The `keras.Model` to train: a `keras_hub.models.CausalLM`, or any causal model of
            tokens with `generate`.
        distillation_losses: As in `Distiller`, losses that need no labels.
        distillation_loss_weights: As in `Distiller`. Defaults to `None`, all `1.0`.
        student_loss_weight: As in `Distiller`; of no effect where the student wrote, but for the
            factor `1 - w`. Defaults to `0.5`.
        name: Name of the model. Defaults to `"on_policy_distiller"`.
        student_fraction: Share of the batches that the student writes, between 0 and 1. Defaults to
            `0.5`.
        prompt_length: Number of tokens of each text that are the prompt. Defaults to `None`: all
            up to the first that `sample_weight` counts as a target; without such weights, the first
            token.
        stop_token_ids: Tokens at which a text ends, or `None`: each fills the batch's length. A
            student with a preprocessor knows them. Not with `generate`, which ends texts itself.
            Defaults to `"auto"`.
        generate: Writes instead of the KerasHub model: called with a dictionary of `"token_ids"`
            and the boolean `"padding_mask"` of the prompts, and a `keras.random.SeedGenerator`;
            returns both with the texts, in the same shapes. It becomes a part of the compiled step.
            If it writes nothing, every weight and the loss of the batch are 0. Defaults to `None`.
        seed: Decides which batches are written, and what. Defaults to `0`.
        **kwargs: Further arguments of `Distiller`.

    Raises:
        ValueError: If the student cannot write, its stop tokens are unknown or given beside
            `generate`, a loss needs labels, what `generate` returns has another shape, or for the
            reasons of `Distiller`.
        TypeError: If `generate` cannot be called, or does not return the two arrays.

    Example:

    ```python
    data = tf.data.Dataset.from_tensor_slices(texts).batch(16).map(student.preprocessor)
    distiller = keras_kd.OnPolicyDistiller(
        teacher, student, keras_kd.losses.JensenShannon(beta=0.5), prompt_length=4
    )
    distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    distiller.fit(data, epochs=3)
    ```

    References:
        Agarwal et al., On-Policy Distillation of Language Models: Learning from Self-Generated
        Mistakes (GKD), 2023, arXiv:2306.13649.
    """

    sums = (*LOGGED, "on_policy_loss")

    def __init__(
        self,
        teacher: Any,
        student: keras.Model,
        distillation_losses: Any,
        distillation_loss_weights: Any = None,
        student_loss_weight: Any = 0.5,
        name: str = "on_policy_distiller",
        *,
        student_fraction: float = 0.5,
        prompt_length: int | None = None,
        stop_token_ids: Sequence[int] | str | None = "auto",
        generate: Writer | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            teacher,
            student,
            distillation_losses,
            distillation_loss_weights,
            student_loss_weight,
            name,
            **kwargs,
        )
        owner = type(self).__name__
        self.student_fraction = number(
            "student_fraction", student_fraction, least=0, most=1, owner=owner
        )
        self.prompt_length = number(
            "prompt_length", prompt_length, least=1, whole=True, optional=True, owner=owner
        )
        self.seed = number("seed", seed, least=0, whole=True, owner=owner)
        if generate is not None and not callable(generate):
            raise TypeError(
                "`generate` must be a function that continues prompts. Received: "
                f"generate={generate!r}. Leave it out for a keras_hub.models.CausalLM."
            )
        if generate is not None and stop_token_ids != "auto":
            raise ValueError(
                "`generate` ends texts itself, and `stop_token_ids` would be unused. Received: "
                f"stop_token_ids={stop_token_ids!r} and generate. Leave out one of them."
            )
        self.generate = generate
        self.stop_token_ids = stop_token_ids
        _refuse_losses_on_labels(self.distillation_losses)
        self._seeds = keras.random.SeedGenerator(self.seed, name="writing")
        self._write = generate or _writer_of_keras_hub(student, stop_token_ids, self._seeds)
        self._writes = False
        self._kinds: set[bool] = set()  # of the steps so far: on the data, on own texts
        self._own_loss = keras.metrics.Mean("on_policy_loss")

    def writes_at(self, step: int) -> bool:
        """Return whether the student writes the batch of a step of the optimizer.

        Args:
            step: Number of the step, counted from 0; with `steps_per_execution` above 1, of the
                first step of an execution.
        """
        # Multiples of the golden ratio fill the interval evenly, whatever the length of an epoch;
        # those of every 21st, 34th or 55th step would stay where they begin.
        start = np.random.default_rng(self.seed).random()
        execution = step // self.steps_per_execution
        return (start + execution * 0.6180339887498949) % 1.0 < self.student_fraction

    def make_train_function(self, force: bool = False) -> Any:
        """Make two steps, on the data and on what the student writes, of which one is taken."""
        if self.train_function is not None and not force:
            return self.train_function
        steps: list[Any] = []
        for _ in range(2):
            super().make_train_function(force=True)
            steps.append(self.train_function)

        def step(iterator: Any) -> Any:
            done = int(self._step())
            self._writes = self.objective.distils and self.writes_at(done)
            if self._writes:
                drawn = np.random.SeedSequence([self.seed, done]).generate_state(1)[0] // 2
                self._seeds.state.assign([drawn, 0])
            self._kinds.add(self._writes)
            return self._measured(steps[self._writes](iterator))

        self.train_function: Any = step
        return step

    def reset_metrics(self) -> None:
        """Begin new means."""
        super().reset_metrics()
        self._kinds.clear()

    def _measured(self, logs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the logs without means of which there was no step in this epoch."""
        if len(self._kinds) < 2:  # a resumed epoch has the means of the steps before
            counts = float(ops.max(self.loss_means.counts)), float(self._own_loss.count)
            self._kinds |= {own for own in (False, True) if counts[own]}
        own = self._own_loss.name
        if True not in self._kinds:
            return {name: value for name, value in logs.items() if name != own}
        if False not in self._kinds:
            return {name: logs[name] for name in ("loss", own) if name in logs}
        return dict(logs)

    @once_data_is_there
    def train_step(self, data: Any) -> dict[str, Any]:
        """Teach the student one batch of the data, or one that it writes."""
        if not self._writes:
            return super().train_step(data)
        x, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        x, weights = self.write(x, sample_weight)
        _, _, losses, loss = self._teach(x, None, weights)
        batch_size, _ = self._track_loss(loss, x)
        self._own_loss.update_state(losses["distillation_loss"], sample_weight=batch_size)
        return self.objective.reported(self.get_metrics_result(), True, True)

    def test_step(self, data: Any) -> dict[str, Any]:
        """Evaluate the student on one batch of the data."""
        results = super().test_step(data)
        results.pop(self._own_loss.name)
        return results

    def write(self, x: Any, sample_weight: Any = None) -> tuple[Any, Any]:
        """Return a batch whose prompts the student has continued.

        Args:
            x: Inputs of a batch of the data.
            sample_weight: Its weights, `[batch]` or `[batch, time]`. Defaults to `None`.

        Returns:
            The inputs with the student's texts, and weights `[batch, time]`: at the positions whose
            next token it wrote, the largest weight of the text, and 0 elsewhere.
        """
        x = student_inputs(x)
        parts = x if isinstance(x, Mapping) else {"token_ids": x}
        tokens = ops.convert_to_tensor(parts["token_ids"])
        places = ops.broadcast_to(ops.arange(tokens.shape[1]), ops.shape(tokens))
        weight = ops.ones(ops.shape(tokens), "float32")
        if sample_weight is not None:
            given = ops.cast(sample_weight, "float32")
            weight *= given if len(given.shape) == 2 else ops.reshape(given, (-1, 1))
        prompt = places < (self.prompt_length or 1)
        if self.prompt_length is None and sample_weight is not None:
            counted = ops.cast(weight > 0, "int32")
            prompt |= ops.cumsum(counted, axis=1) == counted
        if "padding_mask" in parts:
            prompt &= ops.cast(parts["padding_mask"], "bool")
            prompt |= places == 0  # a row of padding alone
        written = self._write({"token_ids": tokens, "padding_mask": prompt}, self._seeds)
        _check_written(written, tuple(tokens.shape))
        texts = {
            name: ops.stop_gradient(ops.cast(written[name], part.dtype))
            for name, part in parts.items()
            if name in ("token_ids", "padding_mask")
        }
        own = ops.cast(written["padding_mask"], "bool") & ~prompt
        own = ops.pad(own[:, 1:], [[0, 0], [0, 1]])
        weights = ops.cast(own, "float32") * ops.max(weight, axis=1, keepdims=True)
        return ({**x, **texts} if isinstance(x, Mapping) else texts["token_ids"]), weights

    def check_data(self, batch: FirstBatch | None) -> None:
        """Refuse what `Distiller` refuses, and data whose texts the student cannot continue."""
        super().check_data(batch)
        if batch is None or not self.student_fraction or not self.objective.distils:
            return
        if self.teacher is None:
            raise ValueError(
                "OnPolicyDistiller needs the teacher itself for what the student writes: the data "
                "contains its outputs for other texts. Received: teacher=None. Set "
                "`distiller.teacher = teacher`, or pass student_fraction=0.0."
            )
        if self.distribute_strategy.num_replicas_in_sync > 1:
            raise ValueError(
                "OnPolicyDistiller trains on one device. Received: a strategy of "
                f"{self.distribute_strategy.num_replicas_in_sync} replicas. Build it outside of "
                "the strategy's scope, or use Distiller."
            )
        x = batch.inputs
        tokens = x.get("token_ids") if isinstance(x, Mapping) else x
        shape, dtype = tuple(getattr(tokens, "shape", ())), str(getattr(tokens, "dtype", ""))
        if len(shape) != 2 or "int" not in dtype:
            raise ValueError(
                "OnPolicyDistiller takes token numbers `[batch, time]`, or a dictionary that holds "
                f"them as `token_ids`. Received: inputs of shape {shape} and dtype {dtype}."
            )
        if self.prompt_length is not None and self.prompt_length >= shape[1]:
            raise ValueError(
                "A prompt leaves no token for the student to write. Received: "
                f"prompt_length={self.prompt_length} for texts of {shape[1]} tokens."
            )

    def get_config(self) -> dict[str, Any]:
        """Return the configuration, without the teacher."""
        return {
            **super().get_config(),
            "student_fraction": self.student_fraction,
            "prompt_length": self.prompt_length,
            "stop_token_ids": self.stop_token_ids,
            "generate": serialize(self.generate),
            "seed": self.seed,
        }


def _check_written(written: Any, shape: tuple[int | None, ...]) -> None:
    """Refuse anything but one text per prompt. A compiled step runs this once, while traced."""
    names = ("token_ids", "padding_mask")
    if not isinstance(written, Mapping) or not set(names) <= set(written):
        shown = sorted(written) if isinstance(written, Mapping) else type(written).__name__
        raise TypeError(
            "`generate` must return a dictionary of `token_ids` and `padding_mask`. Received: "
            f"{shown}."
        )
    for name in names:
        found = tuple(ops.convert_to_tensor(written[name]).shape)
        pairs = zip(found, shape, strict=False)
        if len(found) != 2 or any(None not in pair and pair[0] != pair[1] for pair in pairs):
            raise ValueError(
                "`generate` must return texts of the shape of the prompts, `[batch, time]`. "
                f"Received: {name} of shape {found} for prompts of shape {shape}."
            )


def _refuse_losses_on_labels(losses: Sequence[Any]) -> None:
    for part, _ in (leaf for loss in losses for leaf in leaves(loss)):
        part = getattr(part, "loss", part)
        needs = getattr(part, "uses_labels", False) or getattr(part, "class_weight", None)
        if needs:
            raise ValueError(
                "A text that the student writes has no labels, and one of `distillation_losses` "
                f"needs them. Received: {part!r}. Use a loss without labels or `class_weight`, "
                "such as JensenShannon."
            )


def _writer_of_keras_hub(
    student: Any, stop_token_ids: Any, seeds: keras.random.SeedGenerator
) -> Writer:
    """Return a function that samples texts from a KerasHub model's own probabilities.

    Raises:
        ValueError: If the model cannot write, or its stop tokens are unknown.
    """
    if not callable(getattr(student, "generate_step", None)):
        raise ValueError(
            "OnPolicyDistiller needs a student that writes: `generate` of a "
            f"keras_hub.models.CausalLM. Received: student of type {type(student).__name__}. Pass "
            "such a model, or a function generate=."
        )
    if stop_token_ids == "auto":
        tokenizer = getattr(getattr(student, "preprocessor", None), "tokenizer", None)
        if tokenizer is None:
            raise ValueError(
                'stop_token_ids="auto" takes the stop tokens from the student\'s preprocessor, '
                "and it has none. Pass stop_token_ids=None to write up to the batch's length, or "
                "the numbers of the tokens."
            )
        names = ("end_token_id", "end_token2_id")
        stop_token_ids = [getattr(tokenizer, name) for name in names if hasattr(tokenizer, name)]
    import keras_hub

    sampler = keras_hub.samplers.RandomSampler()
    sampler.seed_generator = seeds

    def write(prompt: dict[str, Any], _: keras.random.SeedGenerator) -> Mapping[str, Any]:
        own, student.sampler = getattr(student, "sampler", None), sampler
        try:
            return student.generate_step(prompt, stop_token_ids)
        finally:
            student.sampler = own

    return write
