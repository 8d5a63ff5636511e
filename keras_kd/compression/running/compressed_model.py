"""CompressedModel: what `compress` gives back."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_kd.compression.running.stage_record import StageRecord, record_from_json, stage_table
from keras_kd.compression.running.student_files import (
    OLD_STUDENT,
    as_json,
    load_student,
    save_student,
)
from keras_kd.compression.running.teaching import as_dataset, evaluate_batches
from keras_kd.compression.stages.layer_record import LayerRecord, kernel_values, zero_fraction
from keras_kd.data.batches import as_batches, refuse_endless
from keras_kd.data.labels import class_labels
from keras_kd.data.taught_inputs import student_inputs
from keras_kd.distilling.trainer import CompileArguments
from keras_kd.models.graph import named_for_files
from keras_kd.models.opening import describe
from keras_kd.models.structures import leaves
from keras_kd.quantizing.quantization import quantization_from_json
from keras_kd.system.files import atomic_path
from keras_kd.system.json_values import history_value, plain_history
from keras_kd.system.quiet import without_retracing_warnings
from keras_kd.system.reading import parse_json
from keras_kd.system.user_warning import warn_user


class CompressedModel:
    """A compressed student.

    Attributes:
        model: The student, a Keras 3 model. After quantization-aware training its kernels hold the
            rounded weights; its activations are rounded where this object is called, evaluated or
            exported to int8.
        layers: A `LayerRecord` for each layer of the original student.
        history: The history of each stage, by its name: one list per metric.
        quantization_aware: Whether the model was trained for few bits.
        quantization: The quantizers of such a model as a dictionary, `None` for others.
        loss: The loss on labels, `loss(y, y_pred, sample_weight)`, or `None`.
        metrics: The metrics as one `keras.metrics.Metric`, or `None`.
        stages: A `StageRecord` for the student as it was, and one for each stage: what ran, with
            its figures.
        clustered: `"kernel"` or `"channel"` by the path of a layer of `model` whose weights share
            values: what the file has one integer for.
    """

    def __init__(
        self,
        model: Any,
        layers: list[LayerRecord],
        history: dict[str, dict[str, list[float]]],
        quantization_aware: bool,
        measures: CompileArguments | None = None,
        stages: Sequence[StageRecord] = (),
        quantization: Mapping[str, Any] | None = None,
        clustered: Mapping[str, str] | None = None,
    ) -> None:
        self.model = model
        self.layers = layers
        self.history = history
        self.quantization_aware = quantization_aware
        self.stages = list(stages)
        self.quantization = quantization
        self.clustered = dict(clustered or {})
        self._view = None if quantization is None else quantization_from_json(quantization, model)
        self._measures = measures or CompileArguments()
        self.loss = self._measures.loss_function()
        self.metrics = self._measures.metrics_object()

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.model.name)

    @property
    def input_shape(self) -> Any:
        """The shape of the input, batch first; a list or dictionary for several inputs."""
        return self.model.input_shape

    @property
    def weight_bits(self) -> int | None:
        """The fewest bits that a kernel was trained for, `None` where none was."""
        bits = None if self.quantization is None else self.quantization.get("weight_bits")
        return min(bits.values()) if bits else None

    @property
    def sparsity(self) -> float:
        """Fraction of zeros among the weights of two and more axes."""
        return zero_fraction(kernel_values(self.model)) or 0.0

    def summary(self, print_fn: Callable[[str], Any] = print) -> None:
        """Print the result of each stage: metric, points lost, parameters, not zero, seconds.

        Args:
            print_fn: Takes the table, lines joined by line feeds. Defaults to `print`.
        """
        print_fn(stage_table(self.stages))

    def count_params(self) -> int:
        """Return the number of parameters of the student, zeros included.

        The ranges that quantization-aware training adds are not counted: they are not weights
        of the exported file.
        """
        return int(self.model.count_params())

    def applied(self) -> AbstractContextManager[None]:
        """Make one call of `model` inside the block compute as the exported file does.

        After quantization-aware training activations are rounded to their ranges; else nothing is
        changed.
        """
        return contextlib.nullcontext() if self._view is None else self._view.applied()

    def __call__(self, x: Any) -> Any:
        """Return the outputs for a batch, in inference mode."""
        with self.applied():
            return self.model(student_inputs(x), training=False)

    def __getattr__(self, name: str) -> Any:
        """Point to `model` for attributes that only a Keras model has."""
        if hasattr(keras.Model, name) and not name.startswith("_"):
            raise AttributeError(
                f"A CompressedModel has no `{name}`. Its Keras model has: use `.model.{name}`."
            )
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def predict(self, x: Any, batch_size: int = 32, verbose: Any = 0) -> Any:
        """Return the outputs as NumPy arrays.

        Args:
            x: Arrays of inputs, or a `tf.data.Dataset` of batches, with or without labels.
            batch_size: Size of a batch, where `x` is arrays. Defaults to `32`.
            verbose: Accepted as in Keras; nothing is shown. Defaults to `0`.
        """
        if isinstance(x, tf.data.Dataset):
            x = x.map(lambda *batch: batch[0])
        else:
            x = tuple(x) if isinstance(x, list) else x  # TensorFlow would stack a list
            x = tf.data.Dataset.from_tensor_slices(x).batch(batch_size)

        run = tf.function(self.__call__, autograph=False, reduce_retracing=True)
        with without_retracing_warnings():
            outputs = [tf.nest.map_structure(np.asarray, run(batch)) for batch in x]
        return tf.nest.map_structure(lambda *parts: np.concatenate(parts), *outputs)

    def evaluate(
        self, data: Any, y: Any = None, sample_weight: Any = None, verbose: Any = 0
    ) -> dict[str, float]:
        """Return the loss on labels and the metrics that the distiller was compiled with.

        Args:
            data: Data with labels: a `tf.data.Dataset` of batches, a `keras.utils.PyDataset`, a
                tuple of arrays `(x, y)` or `(x, y, sample_weight)`, or `x` alone.
            y: Labels, where `data` is `x`. Defaults to `None`.
            sample_weight: Weights, where `data` is `x`. Defaults to `None`.
            verbose: Accepted as in Keras; nothing is shown. Defaults to `0`.

        Raises:
            TypeError: If `data` is of another kind.
            ValueError: If the distiller was compiled without a loss or metrics, or the model was
                loaded from a file that could not hold them.
        """
        if y is not None:
            data = (data, y) if sample_weight is None else (data, y, sample_weight)
        data = as_batches(data, "data")
        refuse_endless(data, "data")
        data = as_dataset(data)
        if self.loss is None and self.metrics is None:
            raise ValueError(
                "There is no loss and no metric to evaluate: the distiller was compiled without "
                "them, or this model was loaded from a file, which cannot hold your own functions "
                "unless they are registered with @keras.saving.register_keras_serializable(). Use "
                "`predict`."
            )
        mean = keras.metrics.Mean(name="loss")
        if self.metrics is not None:
            self.metrics.reset_state()

        def step(x: Any, y: Any, sample_weight: Any) -> None:
            y_pred = self(x)
            if self.loss is not None:
                size = tf.shape(keras.tree.flatten(x)[0])[0]
                mean.update_state(
                    self.loss(class_labels(y), y_pred, sample_weight), sample_weight=size
                )
            if self.metrics is not None:
                self.metrics.update_state(class_labels(y), y_pred, sample_weight)

        evaluate_batches(step, data)
        results = {} if self.loss is None else {"loss": float(mean.result())}
        if self.metrics is not None:
            results |= {name: history_value(value) for name, value in self.metrics.result().items()}
        return results

    def write_saved_model(self, folder: str | os.PathLike[str]) -> None:
        """Write a SavedModel whose signature `serving_default` takes the model's inputs.

        Args:
            folder: The folder to write to.
        """
        with self.applied(), named_for_files(self.model):
            self.model.export(str(folder), format="tf_saved_model", verbose=False)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save model, records, histories, loss and metrics in one file, for `load_compressed`.

        Args:
            path: The file, which ends in `.keras`, or in `.h5` for Keras's older format.
                `keras.models.load_model` reads it as well, as the plain student.

        Raises:
            ValueError: If the path ends in another suffix.
            OSError: If the file cannot be written.

        Warns of a loss or a metric that Keras cannot write, and leaves it out.
        """
        path = pathlib.Path(path)
        if path.suffix not in (".keras", ".h5"):
            raise ValueError(
                "A compressed model is saved in a '.keras' or '.h5' file. "
                f"Received: path='{path}'. Use '{path.with_suffix('.keras')}'."
            )
        measures, left_out = _measures_to_json(self._measures)
        text = json.dumps(
            {
                "layers": [vars(record) for record in self.layers],
                "stages": as_json([dataclasses.asdict(record) for record in self.stages]),
                "quantization": self.quantization,
                "clustered": self.clustered,
                "measures": measures,
                "history": {stage: plain_history(each) for stage, each in self.history.items()},
            }
        )
        with atomic_path(path) as temporary:
            save_student(self.model, temporary)
            if path.suffix == ".h5":
                import h5py

                if len(text) > _H5_LIMIT:
                    raise ValueError(
                        f"The record of the stages has {len(text):,} bytes, and a '.h5' file holds "
                        f"at most {_H5_LIMIT:,}. Received: path='{path}'. "
                        f"Use '{path.with_suffix('.keras')}'."
                    )
                with h5py.File(temporary, "a") as file:
                    file.attrs[_RECORD] = text
            else:
                with zipfile.ZipFile(temporary, "a") as archive:
                    archive.writestr(f"{_RECORD}.json", text)
        if left_out:
            warn_user(
                f"Keras cannot write {_listed(left_out)} into a file: `evaluate` of the loaded "
                "model leaves out what the file does not hold. Give a class a `get_config` with "
                "the arguments of its constructor, and a function a name in a module."
            )


_RECORD = "keras_kd_compressed"
_H5_LIMIT = 64_000  # what HDF5 holds in an attribute


def load_compressed(
    path: str | os.PathLike[str],
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
) -> CompressedModel:
    """Load what `CompressedModel.save` wrote.

    Args:
        path: A `.keras` or `.h5` file.
        custom_objects: Classes and functions that it names, by name: layers, losses and metrics of
            your own. Defaults to `None`.
        safe_mode: Whether code in the file, such as that of a `Lambda` layer, is refused. Defaults
            to `True`. `False` runs code from the file: for files that you trust.

    Returns:
        A `CompressedModel`. Its `evaluate` has the loss and the metrics of the saved one, but for
        your own which are neither registered nor among `custom_objects`; a warning names them.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file was not written by `CompressedModel.save`, is damaged, holds code or
            names classes that are not known.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file '{path}'.")
    text = describe(path, _RECORD).records.get(_RECORD)
    if text is None:
        raise ValueError(
            f"'{path}' was not written by `CompressedModel.save`: it holds no record of stages."
        )
    content = parse_json(text, path)
    if path.suffix == ".h5" and isinstance(content, dict) and "quantization" not in content:
        raise ValueError(OLD_STUDENT.format(path))
    model = load_student(path, custom_objects, safe_mode)
    try:
        measures, left_out = _measures_from_json(
            content.get("measures", {}), custom_objects, safe_mode
        )
        compressed = _from_record(model, content, measures)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"'{path}' is damaged: its record of stages lacks {error}.") from None
    if left_out:
        warn_user(
            f"'{path}' was saved with {_listed(left_out)}, which cannot be made again: `evaluate` "
            "leaves out what is missing. Pass your own classes and functions as "
            "custom_objects={'Name': Name}, or register them with "
            "@keras.saving.register_keras_serializable() before you load."
        )
    return compressed


def _from_record(model: Any, content: Any, measures: CompileArguments) -> CompressedModel:
    layers = [
        LayerRecord(
            **{
                **record,
                "shapes": tuple(tuple(shape) for shape in record["shapes"]),
                "done": tuple(record["done"]),
                "not_done": tuple(record["not_done"]),
            }
        )
        for record in content["layers"]
    ]
    stages = [record_from_json(record) for record in content.get("stages", [])]
    if not isinstance(content["history"], dict):
        raise ValueError("its histories")
    quantization = content.get("quantization")
    return CompressedModel(
        model,
        layers,
        content["history"],
        quantization is not None,
        measures,
        stages,
        quantization,
        content.get("clustered"),
    )


def is_compressed(path: str | os.PathLike[str]) -> bool:
    """Whether a model file was written by `CompressedModel.save`.

    Raises:
        OSError: If there is no readable file.
        ValueError: If it is damaged or no model file.
    """
    return _RECORD in describe(path, _RECORD).records


_MEASURES = {"loss": ("loss", "loss_weights"), "metrics": ("metrics", "weighted_metrics")}
# The class of what Keras could not write, in the place where it stood.
_UNWRITTEN = "__left_out__"
_MISSING = object()


def _measures_to_json(measures: CompileArguments) -> tuple[dict[str, Any], list[str]]:
    """Return what a model was compiled with as JSON, and what Keras cannot serialize of it."""
    left_out: list[str] = []

    def written(value: Any, kind: str) -> Any:
        try:
            return json.loads(json.dumps(keras.saving.serialize_keras_object(value)))
        except Exception:  # a class of the user's may raise anything
            name = getattr(value, "__name__", None) or type(value).__name__
            left_out.append(f"the {kind} '{name}'")
            return {"class_name": _UNWRITTEN, "config": {"name": name}}

    content: dict[str, Any] = {}
    for name, keys in _MEASURES.items():
        content[name] = None
        if any(getattr(measures, key) is not None for key in keys):
            content[name] = {
                key: _each(functools.partial(written, kind=_kind(key)), getattr(measures, key))
                for key in keys
            }
            content[name]["output_names"] = _each(str, measures.output_names)
    return content, left_out


def _measures_from_json(
    content: Mapping[str, Any], custom_objects: Mapping[str, Any] | None, safe_mode: bool
) -> tuple[CompileArguments, list[str]]:
    """Make it again, each loss and metric by itself, and tell which cannot be."""
    left_out: list[str] = []

    def made(value: Any, kind: str) -> Any:
        try:
            return keras.saving.deserialize_keras_object(
                value, custom_objects=dict(custom_objects or {}), safe_mode=safe_mode
            )
        except Exception:  # a class of the user's may raise anything
            left_out.append(f"the {kind} '{_name_in(value)}'")
            return _MISSING

    arguments: dict[str, Any] = {}
    for name, keys in _MEASURES.items():
        given = content.get(name)
        if given is None:
            continue
        for key in keys:
            found = _each(functools.partial(made, kind=_kind(key)), given[key])
            arguments[key] = _without_missing(found, None if name == "loss" else [])
        arguments["output_names"] = given["output_names"]
    return CompileArguments(**arguments), left_out


def _each(function: Callable[[Any], Any], structure: Any) -> Any:
    """Return lists and dictionaries of what a function returns for each thing in them."""
    if isinstance(structure, (list, tuple)):
        return [_each(function, part) for part in structure]
    if isinstance(structure, Mapping) and not {"class_name", "config"} <= structure.keys():
        return {key: _each(function, part) for key, part in structure.items()}
    return None if structure is None else function(structure)


def _without_missing(structure: Any, nothing: Any) -> Any:
    """Return a structure with `nothing` where something is missing, `None` if all of it is."""
    found = [part for part, _ in leaves(structure)]
    if found and all(part is _MISSING or part is None for part in found):
        return None

    def filled(part: Any, inside: bool) -> Any:
        if isinstance(part, Mapping):
            return {key: filled(inner, inside=True) for key, inner in part.items()}
        if isinstance(part, list):
            # In the list of an output Keras takes no empty place.
            drops = inside and nothing is not None
            kept = [inner for inner in part if not (drops and inner is _MISSING)]
            return [filled(inner, inside=True) for inner in kept]
        return nothing if part is _MISSING else part

    return filled(structure, inside=False)


def _kind(key: str) -> str:
    return "loss" if key.startswith("loss") else "metric"


def _name_in(content: Any) -> str:
    """Return the name of a class or function in the description of an object."""
    if not isinstance(content, Mapping):
        return str(content)
    name, config = content.get("class_name"), content.get("config")
    if name == "function":
        return str(config)
    if isinstance(config, Mapping) and isinstance(config.get("fn"), Mapping):
        return _name_in(config["fn"])  # what Keras wrapped
    if isinstance(config, Mapping) and name == _UNWRITTEN:
        return str(config.get("name"))
    return "<lambda>" if name == "__lambda__" else str(name)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(names))
