"""The models of the Fashion-MNIST chain: data, recipes, training that resumes.

A run's folder keeps every model as soon as it is trained; benchmarks begin with what is there.
"""

import contextlib
import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from fashion_data import (
    ImageData,
    draw_views,
    evaluation_dataset,
    training_dataset,
    view_dataset,
)

import keras_kd as kd
from keras_kd.demo.networks import residual_network
from keras_kd.system.files import atomic_path
from keras_kd.system.reading import read_arrays, read_json

History = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Every choice of one run; an epoch is a pass over the training split.

    `compressed_seeds` says how many of the distilled students are pruned and quantized: the first
    ones.
    """

    dataset: str
    validation_examples: int
    shift: int
    flip: bool
    views: int
    batch_size: int
    teacher_widths: tuple[int, ...]
    teacher_blocks: tuple[int, ...]
    teacher_epochs: int
    teacher_learning_rate: float
    teacher_weight_decay: float
    student_widths: tuple[int, ...]
    student_blocks: tuple[int, ...]
    student_epochs: int
    student_learning_rate: float
    student_weight_decay: float
    temperature: float
    student_loss_weight: float
    sparsity: float
    prune_epochs: int
    prune_learning_rate: float
    quantize_epochs: int
    quantize_learning_rate: float
    compressed_seeds: int


RECIPES = {
    "digits": Recipe(
        dataset="digits",
        validation_examples=200,
        shift=1,
        flip=False,
        views=16,
        batch_size=64,
        teacher_widths=(32, 64),
        teacher_blocks=(1, 2),
        teacher_epochs=40,
        teacher_learning_rate=0.05,
        teacher_weight_decay=1e-2,
        student_widths=(8, 12),
        student_blocks=(1, 1),
        student_epochs=40,
        student_learning_rate=0.1,
        student_weight_decay=1e-3,
        temperature=4.0,
        student_loss_weight=0.1,
        sparsity=0.5,
        prune_epochs=20,
        prune_learning_rate=0.05,
        quantize_epochs=8,
        quantize_learning_rate=0.02,
        compressed_seeds=1,
    ),
    "fashion_mnist": Recipe(
        dataset="fashion_mnist",
        validation_examples=5000,
        shift=2,
        flip=True,
        views=8,
        batch_size=128,
        teacher_widths=(32, 64, 128, 256),
        teacher_blocks=(1, 2, 2, 1),
        teacher_epochs=18,
        teacher_learning_rate=0.1,
        teacher_weight_decay=5e-3,
        student_widths=(16, 24, 32),
        student_blocks=(1, 2, 1),
        student_epochs=18,
        student_learning_rate=0.1,
        student_weight_decay=1e-3,
        temperature=4.0,
        student_loss_weight=0.1,
        sparsity=0.3,
        prune_epochs=15,
        prune_learning_rate=0.1,
        quantize_epochs=20,
        quantize_learning_rate=0.05,
        compressed_seeds=1,
    ),
}


def native_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 numbers itself; others only emulate it, slowly."""
    try:
        flags = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


@contextlib.contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Create layers under the dtype policy `name`, then put the global policy back."""
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(previous)


def with_policy(build: Callable[[], keras.Model], model: keras.Model, name: str) -> keras.Model:
    """Return the model of `build()` under another dtype policy, with the weights of `model`."""
    with dtype_policy(name):
        copy = build()
    copy.set_weights(model.get_weights())
    return copy


def cosine_schedule(
    learning_rate: float, steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Return a cosine schedule over `steps`, a tenth of them for warm-up."""
    warmup = max(1, steps // 10)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=learning_rate / 10,
        decay_steps=steps - warmup,
        warmup_target=learning_rate,
        warmup_steps=warmup,
    )


NESTEROV = functools.partial(keras.optimizers.SGD, momentum=0.9, nesterov=True)


def momentum_optimizer(
    learning_rate: float,
    weight_decay: float | None,
    steps: int,
    make: Callable[..., keras.optimizers.Optimizer] = NESTEROV,
) -> keras.optimizers.Optimizer:
    """Return `make(schedule, weight_decay=...)`, which leaves offsets out of the decay."""
    optimizer = make(cosine_schedule(learning_rate, steps), weight_decay=weight_decay)
    if weight_decay is not None:
        optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    return optimizer


def fit_resumably(
    model: keras.Model,
    train: Any,
    validation: Any,
    *,
    epochs: int,
    folder: pathlib.Path,
    name: str,
    verbose: int,
) -> History:
    """Fit a compiled model; a run that was killed resumes at the epoch it was in.

    The backup stays, so that a run that is killed before its model is saved does not train again:
    see `train_or_load`.

    Args:
        model: A compiled model.
        train: Batches of the training split.
        validation: Batches of the validation split.
        epochs: Passes over `train`.
        folder: Where the backup is kept.
        name: What its name begins with.
        verbose: As in `keras.Model.fit`.

    Returns:
        A list per metric with a value per epoch, and the `seconds` of this call.
    """
    start = time.perf_counter()
    backup = _backup(folder, name)
    model.fit(
        train,
        validation_data=validation,
        epochs=epochs,
        shuffle=False,  # the data set is shuffled already; Keras warns of its own default
        callbacks=[backup],
        verbose=verbose,
    )
    seconds = time.perf_counter() - start
    return {"epoch": list(range(epochs)), **backup.history, "seconds": seconds}


def _backup(folder: pathlib.Path, name: str) -> kd.BackupAndRestore:
    return kd.BackupAndRestore(folder / f"{name}.backup", delete_checkpoint=False)


def train_or_load(
    path: pathlib.Path,
    train: Callable[[], tuple[Any, History]],
    load: Callable[[pathlib.Path], Any] = keras.models.load_model,
) -> tuple[Any, History]:
    """Return the model that an earlier run saved, or train and save it.

    Args:
        path: The model's file; its history stands beside it, in `<name>.history.json`.
        train: Returns the model, which has a `save(path)`, and its history.
        load: Reads the file. Defaults to Keras's `load_model`.

    Returns:
        The model and its history.
    """
    history_path = path.with_suffix(".history.json")
    if path.exists() and history_path.exists():
        return load(path), read_json(history_path)
    model, history = train()
    with atomic_path(path) as temporary:
        model.save(temporary)
    with atomic_path(history_path) as temporary:
        temporary.write_text(json.dumps(history))
    _backup(path.parent, path.stem).delete()
    return model, history


class Models:
    """Trains the models of one recipe, or loads those that an earlier run finished.

    Where the processor has bfloat16, teacher and students are trained in it, with float32
    weights; what is returned computes in float32.

    Args:
        recipe: What to train, and how.
        data: The images.
        folder: The run's folder.
        verbose: As in `keras.Model.fit`. Defaults to `0`.
    """

    def __init__(
        self, recipe: Recipe, data: ImageData, folder: pathlib.Path, verbose: int = 0
    ) -> None:
        self.recipe = recipe
        self.data = data
        self.folder = folder
        self.verbose = verbose
        self.validation = evaluation_dataset(data.validation)
        self.test = evaluation_dataset(data.test)
        images, labels = data.train
        self.views = draw_views(len(images), recipe.views, shift=recipe.shift, flip=recipe.flip)
        self.calibration = evaluation_dataset((images[:512], labels[:512]))

    def training_data(self, seed: int, teacher: keras.Model | None = None) -> Any:
        """Return the training split in the order of `seed`, in views that the teacher has seen.

        Args:
            seed: Fixes the order, and which view an epoch shows.
            teacher: Brings its outputs along. Defaults to `None`.
        """
        return training_dataset(
            self.data.train,
            self.views,
            batch_size=self.recipe.batch_size,
            seed=seed,
            shift=self.recipe.shift,
            flip=self.recipe.flip,
            teacher_outputs=None if teacher is None else self.teacher_outputs(teacher)[0],
        )

    def _newly_augmented(self) -> Any:
        recipe = self.recipe
        return training_dataset(
            self.data.train,
            batch_size=recipe.batch_size,
            seed=0,
            shift=recipe.shift,
            flip=recipe.flip,
        )

    def teacher_outputs(self, teacher: keras.Model) -> tuple[np.ndarray, float]:
        """Return the teacher's logits for every view of the training split, computed once.

        Returns:
            Array `[views, examples, classes]`, and the seconds that it took.
        """
        path = self.folder / "teacher_outputs.npz"
        if not path.exists():
            start = time.perf_counter()
            outputs = [
                teacher.predict(
                    view_dataset(self.data.train, view, shift=self.recipe.shift),
                    verbose=self.verbose,
                )
                for view in self.views
            ]
            seconds = time.perf_counter() - start
            with atomic_path(path) as temporary:
                np.savez(temporary, outputs=np.stack(outputs), seconds=seconds)
        kept = read_arrays(path)
        return kept["outputs"], float(kept["seconds"])

    def _build(self, role: str) -> keras.Model:
        teacher = role == "teacher"
        return residual_network(
            self.data.train[0].shape[1:],
            len(self.data.class_names),
            self.recipe.teacher_widths if teacher else self.recipe.student_widths,
            self.recipe.teacher_blocks if teacher else self.recipe.student_blocks,
            name=role,
        )

    def _fit(
        self, model: keras.Model, train: Any, name: str, folder: pathlib.Path, epochs: int
    ) -> History:
        return fit_resumably(
            model,
            train,
            self.validation,
            epochs=epochs,
            folder=folder,
            name=name,
            verbose=self.verbose,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the training split."""
        return len(self.data.train[0]) // self.recipe.batch_size

    def _compile(self, model: keras.Model, rate: float, decay: float, epochs: int) -> None:
        model.compile(
            momentum_optimizer(rate, decay, epochs * self.steps_per_epoch),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )

    def seed_folder(self, seed: int) -> pathlib.Path:
        """Return the folder of what is made anew for every seed."""
        return self.folder / f"seed{seed}"

    def _train(
        self,
        role: str,
        name: str,
        folder: pathlib.Path,
        seed: int,
        teacher: keras.Model | None = None,
    ) -> tuple[keras.Model, History]:
        recipe = self.recipe
        epochs, rate, decay = (
            (recipe.teacher_epochs, recipe.teacher_learning_rate, recipe.teacher_weight_decay)
            if role == "teacher"
            else (recipe.student_epochs, recipe.student_learning_rate, recipe.student_weight_decay)
        )

        def train() -> tuple[keras.Model, History]:
            keras.utils.set_random_seed(seed)
            build = functools.partial(self._build, role)
            with dtype_policy("mixed_bfloat16" if native_bfloat16() else "float32"):
                model = build()
            trained = model if teacher is None else self.distiller(teacher, model)
            self._compile(trained, rate, decay, epochs)
            data = (
                self._newly_augmented() if role == "teacher" else self.training_data(seed, teacher)
            )
            history = self._fit(trained, data, name, folder, epochs)
            return with_policy(build, model, "float32"), history

        return train_or_load(folder / f"{name}.keras", train)

    def teacher(self) -> tuple[keras.Model, History]:
        """Return the teacher, one for all seeds."""
        return self._train("teacher", "teacher", self.folder, seed=0)

    def student_alone(self, seed: int) -> tuple[keras.Model, History]:
        """Return the student trained on labels alone."""
        return self._train("student", "student_alone", self.seed_folder(seed), seed)

    def distilled(self, teacher: keras.Model, seed: int) -> tuple[keras.Model, History]:
        """Return the student trained by the teacher as well, from the same initial weights."""
        return self._train("student", "distilled", self.seed_folder(seed), seed, teacher)

    def distiller(self, teacher: keras.Model, student: keras.Model) -> kd.Distiller:
        """Return the recipe's distiller, not compiled."""
        return kd.Distiller(
            teacher,
            student,
            distillation_losses=[kd.losses.KLDivergence(temperature=self.recipe.temperature)],
            student_loss_weight=self.recipe.student_loss_weight,
        )

    def pruned(
        self, teacher: keras.Model, student: keras.Model, seed: int
    ) -> tuple[kd.CompressedModel, History]:
        """Return the student pruned while the teacher teaches."""
        recipe = self.recipe
        stage = kd.Prune(
            recipe.sparsity,
            epochs=recipe.prune_epochs,
            end=0.5,
            optimizer=momentum_optimizer(
                recipe.prune_learning_rate,
                recipe.student_weight_decay,
                recipe.prune_epochs * self.steps_per_epoch,
            ),
        )
        return self._compressed("pruned", teacher, student, seed, stage)

    def quantized(
        self, teacher: keras.Model, student: keras.Model, seed: int
    ) -> tuple[kd.CompressedModel, History]:
        """Return the pruned student trained for int8 while the teacher teaches."""
        recipe = self.recipe
        stage = kd.QuantizeAware(
            recipe.quantize_epochs,
            optimizer=momentum_optimizer(
                recipe.quantize_learning_rate, None, recipe.quantize_epochs * self.steps_per_epoch
            ),
        )
        return self._compressed("int8", teacher, student, seed, stage)

    def _compressed(
        self, name: str, teacher: keras.Model, student: keras.Model, seed: int, stage: Any
    ) -> tuple[kd.CompressedModel, History]:
        def train() -> tuple[kd.CompressedModel, History]:
            keras.utils.set_random_seed(seed)
            distiller = self.distiller(teacher, student)
            distiller.compile(
                loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                metrics=["accuracy"],
            )
            start = time.perf_counter()
            compressed = kd.compress(
                distiller,
                self.training_data(seed, teacher),
                validation_data=self.validation,
                stages=[stage],
                verbose=self.verbose,
            )
            (curves,) = compressed.history.values()
            return compressed, {**curves, "seconds": time.perf_counter() - start}

        suffix = ".h5" if isinstance(stage, kd.QuantizeAware) else ".keras"
        path = self.seed_folder(seed) / f"{name}{suffix}"
        return train_or_load(path, train, kd.load_compressed)
