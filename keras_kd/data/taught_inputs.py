"""Inputs together with the teacher's outputs for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import keras

from keras_kd.losses.shared.masks import set_keras_mask
from keras_kd.losses.top_k_logits import TopKLogits


class TaughtInputs(NamedTuple):
    """A batch of inputs with the teacher's outputs for it, computed beforehand.

    A dataset whose elements are `(TaughtInputs(inputs, outputs, features), labels)` teaches in
    `Distiller.fit` and in every stage of compression without running the teacher. The outputs must
    be those for exactly these inputs: with augmentation, for the augmented ones. `teacher_outputs=`
    of the distiller is applied to them, as to those of a teacher that runs.

    Attributes:
        inputs: What the student receives.
        outputs: The teacher's outputs for `inputs`.
        features: The teacher's features, by the path of the layer, for hints. Defaults to none.
        masks: The Keras masks of outputs and features that have one, by `"outputs"`, `"outputs/0"`
            or `"outputs/name"` where there are several, and `"features/path"`. Defaults to none.
        adapted: In data of `keras_kd.teachers.cache(distiller, ...)`, whose outputs went through
            `teacher_outputs=` already: `True` per sample. Defaults to nothing: they did not.

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
    masks: Mapping[str, Any] = {}
    # A tensor and not a class of its own: by structure alone compiled functions tell the two.
    adapted: Any = ()


def student_inputs(x: Any) -> Any:
    """Return what the student receives of `x`."""
    return x.inputs if isinstance(x, TaughtInputs) else x


def masked_outputs(taught: TaughtInputs) -> tuple[Any, Mapping[str, Any]]:
    """Return outputs and features as tensors that have their Keras masks.

    Raises:
        ValueError: If there is a mask of an output or feature that does not exist.
    """
    outputs, features = taught.outputs, taught.features
    if not taught.masks:
        return outputs, features
    outputs, features = keras.tree.map_structure(
        keras.ops.convert_to_tensor, (outputs, dict(features))
    )
    leaves = dict([*named_leaves(outputs, "outputs"), *named_leaves(features, "features")])
    for key, mask in taught.masks.items():
        if key not in leaves:
            raise ValueError(
                f"`masks` of keras_kd.teachers.TaughtInputs holds a mask of what the data does not "
                f"contain. Received: {key!r}. Use a key of {list(leaves)}."
            )
        set_keras_mask(leaves[key], keras.ops.convert_to_tensor(mask))
    return outputs, features


def named_leaves(structure: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yield the tensors of outputs or features by their names; of top-k logits the values."""
    if isinstance(structure, TopKLogits):
        yield f"{key}/values", structure.values
    elif isinstance(structure, Mapping):
        for name, part in structure.items():
            yield from named_leaves(part, f"{key}/{name}")
    elif isinstance(structure, (list, tuple)):
        for i, part in enumerate(structure):
            yield from named_leaves(part, f"{key}/{i}")
    else:
        yield key, structure
