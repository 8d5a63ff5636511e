"""What a run of `compress` is of: two runs with the same plan are the same run."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_kd.caching.records import input_fingerprints
from keras_kd.compression.running.described import as_plan
from keras_kd.compression.running.student_files import as_json, config_of
from keras_kd.compression.running.teaching import count_batches
from keras_kd.compression.stages.stage import Stage
from keras_kd.distilling.schedules import serialize
from keras_kd.models.layers import hash_of_architecture, identity_of, leaf_layers
from keras_kd.system.arguments import constructor_defaults, with_added
from keras_kd.system.quiet import without_noise

# Batches are all looked at, twice, up to this size; of larger data the first, and the last where
# it can be had without a pass over the others: in a `keras.utils.PyDataset`.
_SMALL = 256 * 2**20


def run_plan(
    distiller: Any,
    stages: Sequence[Stage],
    train: Any,
    validation_data: Any,
    arrays: Any = None,
    **arguments: Any,
) -> dict[str, Any]:
    """Return the plan of a run, as JSON can hold it.

    Models are identified by hashes of their weights and of their configuration. Data are identified
    by their number of batches and the shapes and types of their elements, training data also by a
    hash of their values: of all of them where they are arrays or up to 256 MB (whatever the order
    of batches), else of the first batch, and of the last one of a `keras.utils.PyDataset`. Of data
    that change from pass to pass, as random augmentation changes them, this alone is compared, not
    their values. Other validation data show in the metrics of the student as given, which a resumed
    run measures again.

    Args:
        distiller: A compiled `Distiller`.
        stages: The stages.
        train: Training data, as batches.
        validation_data: Validation data, as batches, or `None`.
        arrays: The arrays that `train` was made of. Defaults to `None`: it was not made of arrays.
        **arguments: Further arguments of `compress` that decide on the result.
    """
    student = distiller.student
    return as_json(
        {
            "student": {
                "name": student.name,
                "parameters": student.count_params(),
                # Records tell layers by their names, and Keras numbers those it names itself.
                "names of layers": [path for path, _ in leaf_layers(student)],
                **identity_of(student),
            },
            "teacher": {**identity_of(distiller.teacher), **_adapters(distiller.objective.teacher)},
            "objective": _objective(distiller),
            "stages": [
                {
                    "class": type(stage).__name__,
                    "config": config_of(stage),
                    "functions": _functions(stage),
                }
                for stage in stages
            ],
            "data": {
                **identity_of_data(train, arrays),
                **_data("validation", validation_data),
            },
            **arguments,
        }
    )


def _functions(stage: Stage) -> Any:
    """Return what a stage's configuration holds by name or not at all, functions by their code."""
    names = (*stage.unsaved, "layers", "exclude")
    given = {name: getattr(stage, name, None) for name in names}
    return as_plan({name: value for name, value in given.items() if callable(value)})


def identity_of_data(data: Any, arrays: Any = None) -> dict[str, Any]:
    """Return what data are known by: their batches, shapes, types and values.

    Args:
        data: Batches.
        arrays: The arrays that they were made of. Defaults to `None`: they were not made of arrays.
    """
    return {**_data("train", data), **_values(data, arrays)}


def with_new_arguments(kept: Any, ours: Any) -> Any:
    """Return kept configurations with the arguments added since, at their defaults.

    Optimizers are the same whatever they are called: Keras numbers those it names itself.
    """
    if isinstance(kept, list) and isinstance(ours, list) and len(kept) == len(ours):
        return [with_new_arguments(*pair) for pair in zip(kept, ours, strict=True)]
    if not isinstance(kept, Mapping) or not isinstance(ours, Mapping):
        return kept
    if "functions" in ours and "config" in ours:  # which earlier versions did not write down
        kept = {"functions": ours["functions"], **kept}
    kept = {key: with_new_arguments(value, ours.get(key)) for key, value in kept.items()}
    name = ours.get("registered_name") or f"keras_kd>{ours.get('class')}"
    kind = keras.saving.get_registered_object(name)
    if not all(isinstance(side.get("config"), Mapping) for side in (kept, ours)):
        return kept
    of_keras = ours.get("module") == "keras.optimizers"
    if of_keras or (isinstance(kind, type) and issubclass(kind, keras.optimizers.Optimizer)):
        kept["config"] = {**kept["config"], "name": ours["config"].get("name")}
    if kind is None:
        return kept
    kept["config"] = with_added(kept["config"], ours["config"], constructor_defaults(kind))
    if kept.get("registered_name") == name:  # its module may have moved
        kept["module"] = ours.get("module")
    return kept


def _data(name: str, data: Any) -> dict[str, Any]:
    if data is None:
        return {f"{name} batches": None, f"{name} elements": None}
    if isinstance(data, tf.data.Dataset):
        return {
            f"{name} batches": count_batches(data),
            f"{name} elements": str(data.element_spec),
        }
    specs = keras.tree.map_structure(
        lambda leaf: [str(leaf.dtype), list(leaf.shape)[1:]], list(data[0])
    )
    return {f"{name} batches": len(data), f"{name} elements": specs}


def _values(data: Any, arrays: Any) -> dict[str, Any]:
    """Return hashes of the values of training data, `None` for what changes from pass to pass."""
    if arrays is not None:
        return {"train contents": _hash_of_arrays(arrays)}
    count, dataset = count_batches(data), isinstance(data, tf.data.Dataset)
    with without_noise():
        first = next(iter(data)) if dataset else data[0]
    if count * sum(_size(leaf) for leaf in keras.tree.flatten(first)) <= _SMALL:
        return {"train contents": _same_twice(lambda: _hash_of_examples(_passed(data)))}
    ends = [data.take(1)] if dataset else [[data[0]], [data[count - 1]]]
    with without_noise():
        return {
            "train ends": [_same_twice(functools.partial(_hash_of_examples, end)) for end in ends]
        }


def _passed(data: Any) -> Iterable[Any]:
    return data if isinstance(data, tf.data.Dataset) else (data[i] for i in range(len(data)))


def _same_twice(look: Callable[[], str]) -> str | None:
    """Return what two looks at data agree on, or `None`."""
    first = look()
    return first if look() == first else None


def _size(leaf: Any) -> int:
    if isinstance(leaf, (tf.RaggedTensor, tf.SparseTensor)):
        leaf = leaf.values
    if isinstance(leaf, tf.Tensor) and leaf.dtype == tf.string:
        return int(tf.reduce_sum(tf.strings.length(leaf)))
    return int(np.asarray(leaf).nbytes)


def _hash_of_arrays(arrays: Any) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for leaf in map(np.asarray, keras.tree.flatten(arrays)):
        digest.update(f"{leaf.dtype} {leaf.shape};".encode())
        if leaf.dtype == object:
            digest.update("\0".join(map(str, leaf.reshape(-1))).encode())
        else:
            digest.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _hash_of_examples(batches: Iterable[Any]) -> str:
    """Return a hash of the examples in some batches that does not depend on their order."""
    total = 0
    for batch in batches:
        leaves = [leaf for leaf in keras.tree.flatten(batch) if leaf is not None]
        rows = [leaf if _is_composite(leaf) else tf.convert_to_tensor(leaf) for leaf in leaves]
        # What belongs to a whole batch, such as a temperature, has no rows.
        rows = [leaf for leaf in rows if leaf.shape.rank]
        hashes = input_fingerprints(rows).numpy().view(np.uint64)
        total += int(hashes.sum(dtype=np.uint64))
    return f"{total % 2**64:016x}"


def _is_composite(leaf: Any) -> bool:
    return isinstance(leaf, (tf.RaggedTensor, tf.SparseTensor))


def _adapters(teacher: Any) -> dict[str, str | None]:
    """Return what fits a teacher to its student: a hash of a layer, the name of a function."""
    found = {}
    for name in ("inputs", "outputs"):
        adapter = getattr(teacher, f"{name}_function", None)
        known = hash_of_architecture(adapter) or getattr(adapter, "__qualname__", None)
        found[f"teacher_{name} architecture"] = known
    return found


def _objective(distiller: Any) -> dict[str, Any]:
    loss = distiller.compile_arguments.loss
    return {
        "distillation_losses": [
            keras.tree.map_structure(_serialized, loss) for loss in distiller.distillation_losses
        ],
        "distillation_loss_weights": [
            _serialized(weight) for weight in distiller.distillation_loss_weights
        ],
        "student_loss_weight": _serialized(distiller.student_loss_weight),
        "student_loss": None if loss is None else keras.tree.map_structure(_serialized, loss),
        "loss_weights": distiller.compile_arguments.loss_weights,
    }


def _serialized(value: Any) -> Any:
    try:
        return serialize(value)
    except (NotImplementedError, OSError, TypeError, ValueError):
        return value
