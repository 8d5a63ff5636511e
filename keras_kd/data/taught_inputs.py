"""Inputs together with the teacher's outputs for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class TaughtInputs(NamedTuple):
    """A batch of inputs with the teacher's outputs for it, computed beforehand.

    A dataset whose elements are `(TaughtInputs(inputs, outputs, features), labels)` teaches in
    `Distiller.fit` and in every stage of compression without running the teacher. The outputs must
    be those for exactly these inputs: with augmentation, for the augmented ones.

    Attributes:
        inputs: What the student receives.
        outputs: The teacher's outputs for `inputs`.
        features: The teacher's features, by the path of the layer, for hints. Defaults to none.

    Example:

    ```python
    outputs = teacher.predict(images)
    taught = keras_kd.teachers.TaughtInputs(images, outputs)
    data = tf.data.Dataset.from_tensor_slices((taught, labels))
    distiller.fit(data.shuffle(10_000).batch(64), epochs=10)
    ```
    """

    inputs: Any
    outputs: Any
    features: Mapping[str, Any] = {}


def student_inputs(x: Any) -> Any:
    """Return what the student receives of `x`."""
    return x.inputs if isinstance(x, TaughtInputs) else x
