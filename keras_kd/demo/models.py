"""The models of the demonstration, trained and kept in the run's folder."""

from __future__ import annotations

import functools
import pathlib
import time
from typing import Any

import keras
import numpy as np

from keras_kd.compression.compress import compress
from keras_kd.compression.pruning.prune import Prune
from keras_kd.compression.quantizing.quantize_aware import QuantizeAware
from keras_kd.compression.running.compressed_model import CompressedModel, load_compressed
from keras_kd.compression.stages.stage import Stage
from keras_kd.demo.data import (
    ImageData,
    draw_views,
    evaluation_dataset,
    training_dataset,
    view_dataset,
)
from keras_kd.demo.networks import residual_network
from keras_kd.demo.recipes import Recipe
from keras_kd.demo.training import (
    History,
    dtype_policy,
    fit_resumably,
    momentum_optimizer,
    native_bfloat16,
    train_or_load,
    with_policy,
)
from keras_kd.distilling.distiller import Distiller
from keras_kd.losses import KLDivergence
from keras_kd.system.files import atomic_path
from keras_kd.system.reading import read_arrays


class DemoModels:
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

    def distiller(self, teacher: keras.Model, student: keras.Model) -> Distiller:
        """Return the recipe's distiller, not compiled."""
        return Distiller(
            teacher,
            student,
            distillation_losses=[KLDivergence(temperature=self.recipe.temperature)],
            student_loss_weight=self.recipe.student_loss_weight,
        )

    def pruned(
        self, teacher: keras.Model, student: keras.Model, seed: int
    ) -> tuple[CompressedModel, History]:
        """Return the student pruned while the teacher teaches."""
        recipe = self.recipe
        stage = Prune(
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
    ) -> tuple[CompressedModel, History]:
        """Return the pruned student trained for int8 while the teacher teaches."""
        recipe = self.recipe
        stage = QuantizeAware(
            recipe.quantize_epochs,
            optimizer=momentum_optimizer(
                recipe.quantize_learning_rate, None, recipe.quantize_epochs * self.steps_per_epoch
            ),
        )
        return self._compressed("int8", teacher, student, seed, stage)

    def _compressed(
        self, name: str, teacher: keras.Model, student: keras.Model, seed: int, stage: Stage
    ) -> tuple[CompressedModel, History]:
        def train() -> tuple[CompressedModel, History]:
            keras.utils.set_random_seed(seed)
            distiller = self.distiller(teacher, student)
            distiller.compile(
                loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                metrics=["accuracy"],
            )
            start = time.perf_counter()
            compressed = compress(
                distiller,
                self.training_data(seed, teacher),
                validation_data=self.validation,
                stages=[stage],
                verbose=self.verbose,
            )
            (curves,) = compressed.history.values()
            return compressed, {**curves, "seconds": time.perf_counter() - start}

        suffix = ".h5" if isinstance(stage, QuantizeAware) else ".keras"
        path = self.seed_folder(seed) / f"{name}{suffix}"
        return train_or_load(path, train, load_compressed)
