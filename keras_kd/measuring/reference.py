"""What the Keras model answers, which a file was made from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_kd.data.numpy_batches import Input, safe_name
from keras_kd.litert.model_file import ModelFile
from keras_kd.losses.shared.masks import get_keras_mask
from keras_kd.measuring.answers import places_in_tuple
from keras_kd.models.graph import flat_layers, is_graph, origin_of, output_structure
from keras_kd.models.outputs import name_outputs
from keras_kd.models.probabilities import last_activation
from keras_kd.models.recurrent import without_state
from keras_kd.system.quiet import without_retracing_warnings
from keras_kd.system.user_warning import warn_user


class Reference:
    """Gives a model's outputs for inputs as the data gives them.

    Args:
        model: A Keras model or a compressed one.
        output_names: The outputs of the file at `path`.
        position: Which of them is asked for.
        path: The file, for error messages.
        file: What it holds. Defaults to `None`: `path` is another model.

    Attributes:
        places: Which of the model's outputs each one of the file is, once it has run.

    Raises:
        TypeError: If `model` is something else.
    """

    def __init__(
        self,
        model: Any,
        output_names: Sequence[str],
        position: int,
        path: Any,
        file: ModelFile | None = None,
    ) -> None:
        import tensorflow as tf

        if isinstance(model, keras.Model) or hasattr(model, "predict_on_batch"):
            run = partial(model, training=False)
        elif callable(model) and hasattr(model, "predict"):
            run = model
        else:
            advice = (
                " Labels belong to the data: evaluate_tflite(path, (x, y))."
                if hasattr(model, "shape")
                else ""
            )
            raise TypeError(
                "`model` must be a Keras model or a compressed one. Received: "
                f"{type(model).__name__}.{advice}"
            )
        self._model = getattr(model, "model", model)
        self._names = list(output_names)
        self._position = position
        self._path = path
        self._file = file
        self.places = places_in_tuple(self._names)
        if file is not None:
            self._warn_of_inner_outputs()

        def outputs_and_masks(x: Any) -> tuple[list[Any], list[Any]]:
            outputs = self._ordered(run(x))
            return outputs, [get_keras_mask(output) for output in outputs]

        self._run = tf.function(outputs_and_masks, autograph=False, reduce_retracing=True)

    def _ordered(self, outputs: Any) -> list[Any]:
        """Return the outputs, or what is known of each, in the order of the file."""
        named = name_outputs(self._model, outputs)
        if len(named) != len(self._names):
            raise ValueError(
                f"`model` has {len(named)} output(s) and '{self._path}' has {len(self._names)}: "
                "the file was not made from this model."
            )
        self.places = self._places([safe_name(name) for name in named])
        in_order = list(named.values())
        return [in_order[place] for place in self.places]

    def _places(self, of_model: list[str]) -> list[int]:
        """Return which of the model's outputs each one of the file is."""
        if not set(of_model) & set(self._names):
            if self._file is not None:
                self._check_first_signature(self._file, set(of_model))
            return places_in_tuple(self._names)
        others = [i for i, name in enumerate(of_model) if name not in self._names]
        if len(others) > 1:
            raise ValueError(
                f"The outputs {[of_model[i] for i in others]} of `model` have other names than "
                f"those of '{self._path}', {self._names}. Pass the model that the file was made "
                "from, or give its outputs these names."
            )
        return [of_model.index(n) if n in of_model else others[0] for n in self._names]

    def in_model_order(self, inputs: Sequence[Input]) -> list[Input]:
        """Return a file's inputs in the order of the model's, where their names tell."""
        names = [safe_name(each.name) for each in getattr(self._model, "inputs", None) or ()]
        by_name = {given.name: given for given in inputs}
        return [by_name[name] for name in names] if set(names) == set(by_name) else list(inputs)

    def _check_first_signature(self, file: ModelFile, names: set[str]) -> None:
        """Refuse a model that gives what another signature of the file does than the first."""
        graphs = file.signature_graphs()
        first = next((key for key, graph in graphs.items() if not graph), "")
        for key, graph in graphs.items():
            if graph and set(file.signature(key)[1]) == names:
                raise ValueError(
                    f"`model` has the outputs of the signature '{key}', but '{self._path}' is "
                    f"measured on its first signature, '{first}', which gives {self._names}. Pass "
                    f"a model with these outputs, or export '{key}' first in `signatures`."
                )

    def _warn_of_inner_outputs(self) -> None:
        """Warn where the file's outputs have the names of layers which are not the model's last."""
        structure = output_structure(self._model)
        if structure is None or not is_graph(self._model):
            return
        self._ordered(structure)  # it may refuse them
        last = {origin_of(tensor).operation.name for tensor in keras.tree.flatten(structure)}
        own = {*last, *name_outputs(self._model, structure)}
        inner = {layer.name for layer in flat_layers(self._model, include_self=False)} - own
        named = sorted({safe_name(name) for name in inner} & set(self._names))
        if named and not {safe_name(name) for name in own} & set(self._names):
            warn_user(
                f"'{self._path}' gives the outputs of the layers {named}, and is compared with "
                f"the outputs of `model`, {sorted(own)}. Pass keras.Model(model.inputs, "
                f"model.get_layer({named[0]!r}).output) to compare the same."
            )

    @property
    def end(self) -> str | None:
        """What the model's graph shows about the output: see `last_activation`."""
        ends = last_activation(self._model)
        if ends is None:
            return None
        end: str | None = self._ordered(ends)[self._position]
        return end

    def __call__(self, x: Any) -> tuple[np.ndarray, list[np.ndarray | None]]:
        """Return the output, numbers as float32, and the Keras mask of every output of the file."""
        x = keras.tree.map_structure(keras.ops.convert_to_tensor, x)
        with without_retracing_warnings(), without_state(self._model):
            outputs, masks = self._run(x)
        chosen = outputs[self._position]
        if keras.backend.is_float_dtype(chosen.dtype):
            chosen = keras.ops.cast(chosen, "float32")
        return np.asarray(chosen), [None if mask is None else np.asarray(mask) for mask in masks]
