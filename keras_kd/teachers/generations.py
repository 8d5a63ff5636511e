"""Students that become teachers: chains of assistants and born-again generations."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from keras_kd.models.layers import hash_of_architecture, hash_of_weights
from keras_kd.models.opening import open_model
from keras_kd.models.weights import check_apart
from keras_kd.system.arguments import number
from keras_kd.system.files import atomic_path, check_writable, write_json
from keras_kd.system.folder_lock import held_folder
from keras_kd.system.json_values import plain_history
from keras_kd.system.reading import read_json
from keras_kd.system.shown_text import first_line
from keras_kd.teachers.callable_teacher import as_teacher


@dataclasses.dataclass(frozen=True)
class TrainedModels:
    """The models that were trained one after the other.

    Attributes:
        models: The trained models, in order, without the first teacher.
        histories: For each, the history of its `fit`, a list of values by the name of the metric;
            `None` where `fit` returned none.
    """

    models: list[Any]
    histories: list[Mapping[str, list[float]] | None]

    @property
    def student(self) -> Any:
        """The last model."""
        return self.models[-1]


def chain(
    models: Sequence[Any],
    fit: Callable[[Any, keras.Model], Any],
    path: str | os.PathLike[str] | None = None,
) -> TrainedModels:
    """Distil from each model into the next: teacher, assistants, student.

    A student far smaller than its teacher can learn more from an assistant of a size between.

    Args:
        models: The trained teacher, then the models to train, each taught by the one before it.
        fit: Called as `fit(teacher, student)`; trains the student in place, as with a
            `keras_kd.Distiller`, and may return the `History`.
        path: A folder where every finished model is kept. The same call resumes after the last
            model that is there. Defaults to `None`: nothing is kept.

    Returns:
        A `TrainedModels`.

    Raises:
        ValueError: If there are fewer than two models, a model occurs twice, or what `path` holds
            is not from this chain.
        TypeError: If a model to train is not a `keras.Model`, or `fit` does not take a
            teacher and a student.
        OSError: If `path` cannot be written to, or another process is at work in it.

    Example:

    ```python
    def fit(teacher, student):
        distiller = keras_kd.Distiller(
            teacher, student, keras_kd.losses.KLDivergence(4.0), student_loss_weight=0.1
        )
        distiller.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        return distiller.fit(train, validation_data=validation, epochs=10)

    trained = keras_kd.teachers.chain([teacher, assistant, student], fit, path="runs/chain")
    trained.student.save("runs/student.keras")
    ```

    Reference:
        Mirzadeh et al., Improved Knowledge Distillation via Teacher Assistant, 2020,
        arXiv:1902.03393.
    """
    if not isinstance(models, (list, tuple)) or len(models) < 2:
        raise ValueError(
            "A chain needs a teacher and at least one model to train: chain([teacher, assistant, "
            f"student], fit). Received {models!r}."
        )
    as_teacher(models[0])
    for i, model in enumerate(models[1:], start=1):
        _check_student(model, f"Element {i} of `models`")
        if any(model is other for other in models[:i]):
            raise ValueError(
                f"Element {i} of `models`, '{model.name}', occurs twice in the chain: a model "
                "cannot teach itself. Make a separate model for each position."
            )
        for j, other in enumerate(models[:i]):
            check_apart(model, other, (f"models[{i}]", f"models[{j}]"))
    return _run(models[0], len(models) - 1, lambda i: models[i + 1], fit, path, "chain")


def born_again(
    teacher: Any,
    make_student: Callable[[], keras.Model],
    generations: int,
    fit: Callable[[Any, keras.Model], Any],
    path: str | os.PathLike[str] | None = None,
) -> TrainedModels:
    """Train generations of students, each taught by the generation before it.

    With a student of the teacher's own architecture later generations can be better than the
    teacher, and the generations together, as a `keras_kd.teachers.Ensemble`, better still.

    Args:
        teacher: The trained teacher of the first generation.
        make_student: Called without arguments, returns a new, untrained model.
        generations: How many students to train one after the other.
        fit: Called as `fit(teacher, student)`; trains the student in place, as with a
            `keras_kd.Distiller`, and may return the `History`.
        path: A folder where every finished generation is kept. The same call, also with more
            generations, resumes after the last one. Defaults to `None`: nothing is
            kept.

    Returns:
        A `TrainedModels`.

    Raises:
        ValueError: If `generations` is below 1, `make_student` returns the same model twice, or
            what `path` holds is not from these generations.
        TypeError: If `make_student` is not callable or returns no `keras.Model`, or `fit` does not
            take a teacher and a student.
        OSError: If `path` cannot be written to, or another process is at work in it.

    Example:

    ```python
    trained = keras_kd.teachers.born_again(teacher, make_student, generations=3, fit=fit)
    ensemble = keras_kd.teachers.Ensemble(trained.models)
    ```

    Reference:
        Furlanello et al., Born Again Neural Networks, 2018, arXiv:1805.04770.
    """
    as_teacher(teacher)
    if not callable(make_student) or isinstance(make_student, keras.Model):
        raise TypeError(
            "`make_student` must be a function that returns a new model, such as lambda: "
            f"build_student(). Received: {type(make_student).__name__}."
        )
    number("generations", generations, least=1, whole=True)
    made: list[Any] = [teacher]

    def make(i: int) -> keras.Model:
        student = make_student()
        _check_student(student, "What `make_student` returned")
        if any(student is other for other in made):
            raise ValueError(
                f"`make_student` returned the model '{student.name}' again: every generation "
                "needs a new model. Build it inside the function."
            )
        for other in made:
            check_apart(student, other, ("model of `make_student`", "teacher"))
        made.append(student)
        return student

    return _run(teacher, generations, make, fit, path, "generation")


def _run(
    teacher: Any,
    count: int,
    student_at: Callable[[int], keras.Model],
    fit: Callable[[Any, keras.Model], Any],
    path: str | os.PathLike[str] | None,
    what: str,
) -> TrainedModels:
    _check_fit(fit)
    with contextlib.nullcontext() if path is None else held_folder(path):
        finished = None if path is None else FinishedModels(pathlib.Path(path), what)
        trained = TrainedModels([], [])
        for i in range(count):
            student = student_at(i)
            architecture = hash_of_architecture(
                student
            )  # a subclassed model has one once it is built
            record = None if finished is None else finished.restore(i, teacher, student)
            if record is None:
                history = _history(fit(teacher, student))
                if finished is not None:
                    finished.keep(i, teacher, student, history, architecture)
            else:
                student, history = record
            trained.models.append(student)
            trained.histories.append(history)
            teacher = student
        return trained


def _check_student(model: Any, what: str) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"{what} must be a keras.Model, because it is trained, but it is a "
            f"{type(model).__name__}."
        )


def _check_fit(fit: Any) -> None:
    try:
        inspect.signature(fit).bind(None, None)
    except TypeError:
        raise TypeError(
            f"`fit` must be a function of a teacher and a student. Received: {fit!r}. Write "
            "def fit(teacher, student): ..., which trains the student in place."
        ) from None
    except ValueError:  # a callable that does not tell its arguments
        pass


def _history(returned: Any) -> Mapping[str, list[float]] | None:
    history = getattr(returned, "history", returned)
    return history if isinstance(history, Mapping) else None


class FinishedModels:
    """Keeps every finished model of a run, so that a stopped run resumes after the last.

    Each is a `.keras` file with a JSON file beside it: the history, and hashes of the model's
    weights and architecture and of its teacher's weights, which tell a model of another run.

    Args:
        path: The folder.
        what: What the files are called, with their number behind it.

    Raises:
        OSError: If `path` cannot be written to.
    """

    def __init__(self, path: pathlib.Path, what: str) -> None:
        self.path = path
        self.what = what
        check_writable(path / f"{what}_1.keras")

    def _files(self, index: int) -> tuple[pathlib.Path, pathlib.Path]:
        stem = f"{self.what}_{index + 1}"
        return self.path / f"{stem}.keras", self.path / f"{stem}.json"

    def keep(
        self,
        index: int,
        teacher: Any,
        model: keras.Model,
        history: Mapping[str, Any] | None,
        architecture: str | None,
    ) -> None:
        """Write a finished model.

        Args:
            index: Its place in the run, counted from 0.
            teacher: The model that taught it.
            model: The model.
            history: The history of its training, or `None`.
            architecture: The hash of its architecture before the training, or `None`.
        """
        model_file, record_file = self._files(index)
        with atomic_path(model_file) as temporary:
            model.save(temporary)
        record = {
            "model": hash_of_weights(model),
            "architecture": architecture,
            "teacher": hash_of_weights(teacher),
            "history": None if history is None else plain_history(history),
        }
        # Written last: a model counts as finished once its record is there.
        write_json(record_file, record)

    def restore(
        self, index: int, teacher: Any, model: keras.Model
    ) -> tuple[keras.Model, Mapping[str, Any] | None] | None:
        """Return a finished model and its history, or `None` if it is not there.

        Args:
            index: Its place in the run, counted from 0.
            teacher: The model that teaches it in this run.
            model: The untrained model, which receives the weights.

        Raises:
            ValueError: If the file is damaged, or of another model or another teacher.
        """
        model_file, record_file = self._files(index)
        if not record_file.exists():
            return None
        advice = f"Give another `path`, or remove '{self.path}' to train again."
        try:
            record = read_json(record_file)
            known, taught_by, history = record["model"], record["teacher"], record["history"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"'{record_file}' is damaged. {advice}") from None
        if taught_by != hash_of_weights(teacher):
            raise ValueError(
                f"'{model_file}' was taught by another teacher, or by this one with other "
                f"weights. {advice}"
            )
        if record.get("architecture") not in (None, hash_of_architecture(model)):
            raise ValueError(
                f"'{model_file}' is of another architecture than '{model.name}'. {advice}"
            )
        if not model_file.exists():
            raise ValueError(f"'{record_file}' is there, but '{model_file}' is not. {advice}")
        try:
            if model.built:
                model.load_weights(model_file)
            else:
                model = open_model(model_file)
        except Exception as error:
            raise ValueError(
                f"'{model_file}' does not fit the model '{model.name}', or is damaged: "
                f"{first_line(error)} {advice}"
            ) from error
        if hash_of_weights(model) != known:
            raise ValueError(f"'{model_file}' is not the model that was kept there. {advice}")
        return model, history
