"""SelfTeacher: a teacher that is an average, or an earlier state, of the student."""

from __future__ import annotations

from typing import Any

import keras

from keras_kd.losses.shared.weighting import widened
from keras_kd.models.copying import clone_uncompiled, copy_state
from keras_kd.system.arguments import number


class SelfTeacher(keras.callbacks.Callback):
    """A callback that keeps a copy of the student as its teacher: distillation without a teacher.

    With `momentum` the copy's weights are an exponential average of the student's (a mean teacher),
    updated after every step, or after every `k` steps with `steps_per_execution=k`. Without it the
    copy is the student at the end of the epoch before (PS-KD). PS-KD gives the copy a weight that
    grows with the epochs, and takes it at temperature 1.

    The average starts at the student's weights before the first step. The copy is not saved with
    the distiller: a resumed training starts the average again, at the student it resumes from.

    Args:
        student: The student, a built `keras.Model`.
        momentum: Share of the average that a step keeps, from 0 to below 1; `None` to copy the
            student after every epoch. Defaults to `0.999`.

    Attributes:
        teacher: The copy, to be given to the `kd.Distiller`.

    Raises:
        ValueError: If the student is not built, or `momentum` is out of range.

    Example:

    An exponential average:

    ```python
    average = keras_kd.SelfTeacher(student, momentum=0.999)
    distiller = keras_kd.Distiller(average.teacher, student, keras_kd.losses.KLDivergence(2.0))
    distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    distiller.fit(train, epochs=2, callbacks=[average])
    ```

    PS-KD, over 10 epochs, with a last weight of 0.8:

    ```python
    past = keras_kd.SelfTeacher(student, momentum=None)
    distiller = keras_kd.Distiller(
        past.teacher,
        student,
        keras_kd.losses.SoftCrossEntropy(temperature=1.0),
        student_loss_weight=lambda epoch: 1.0 - 0.8 * epoch / 10,
    )
    ```

    References:
        Tarvainen and Valpola, Mean teachers are better role models, 2017, arXiv:1703.01780.
        Kim et al., Self-Knowledge Distillation with Progressive Refinement of Targets (PS-KD),
        2020, arXiv:2006.12000.
    """

    def __init__(self, student: keras.Model, momentum: float | None = 0.999) -> None:
        super().__init__()
        if not isinstance(student, keras.Model) or not student.built:
            raise ValueError(
                "SelfTeacher copies a built keras.Model. Received: "
                f"student={student!r}. Give it an Input, or call it on a batch first."
            )
        self.momentum = number(
            "momentum", momentum, least=0, below=1, optional=True, owner="SelfTeacher"
        )
        self.student = student
        self.teacher = clone_uncompiled(student)
        copy_state(student, self.teacher)
        self.teacher.trainable = False
        # In half precision a step of the average would round to nothing: its sum is kept wide.
        self._wide: dict[int, Any] = {}
        self._started = False

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Start at the student's weights: before the first step, when a backup was restored."""
        if not self._started:
            self._move(0.0)
        self._started = True

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Update the average."""
        if self.momentum is not None:
            self._move(self.momentum)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Copy the student, where there is no average."""
        if self.momentum is None:
            self._move(0.0)

    def _move(self, momentum: float) -> None:
        pairs = zip(self.teacher.weights, self.student.weights, strict=True)
        for i, (mean, new) in enumerate(pairs):
            if not keras.backend.is_float_dtype(mean.dtype):
                mean.assign(new)
                continue
            exact = momentum * self._wide.get(i, widened(mean)) + (1.0 - momentum) * widened(new)
            if mean.dtype in ("float16", "bfloat16"):
                self._wide[i] = exact
            mean.assign(keras.ops.cast(exact, mean.dtype))
