"""SavedModelTeacher: a SavedModel folder that teaches."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import tensorflow as tf

from keras_kd.system.quiet import capture_output
from keras_kd.teachers.file_inputs import by_name


class SavedModelTeacher:
    """A signature of a SavedModel as a teacher.

    Made by `keras_kd.teachers.load`.

    Args:
        path: The folder.
        signature: The name of the signature. Defaults to `None`: `"serving_default"`, or the only
            one.
        name: Name of the teacher. Defaults to `None`, the folder's name.

    Raises:
        ValueError: If the folder holds no readable SavedModel, or no such signature.
    """

    supports_jit = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        signature: str | None = None,
        name: str | None = None,
    ) -> None:
        self.path = pathlib.Path(path)
        self.name = name or self.path.name
        try:
            with capture_output(replay_on_error=False):
                # The signature's function does not keep the variables alive; the object does.
                self._loaded = tf.saved_model.load(os.fspath(path))
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
            raise ValueError(
                f"'{self.path}' is not a SavedModel that TensorFlow can load: {reason}"
            ) from None
        self.signature = self._choose(signature)
        self._function = self._loaded.signatures[self.signature]
        self._specs = dict(self._function.structured_input_signature[1])

    @property
    def weights(self) -> list[Any]:
        """The variables of the signature."""
        return list(self._function.variables)

    def _choose(self, signature: str | None) -> str:
        names = sorted(self._loaded.signatures)
        if not names:
            raise ValueError(
                f"The SavedModel '{self.path}' has no signatures, so it does not say what it takes "
                "and returns. Save it again: tf.saved_model.save(model, path, signatures="
                "function.get_concrete_function(tf.TensorSpec([None, ...], tf.float32)))."
            )
        listed = ", ".join(f"'{name}'" for name in names)
        if signature is None:
            if "serving_default" in names:
                return "serving_default"
            if len(names) == 1:
                return names[0]
            raise ValueError(
                f"The SavedModel '{self.path}' has the signatures {listed}. Choose one: "
                f"keras_kd.teachers.load(path, signature='{names[0]}')."
            )
        if signature not in names:
            raise ValueError(
                f"The SavedModel '{self.path}' has no signature '{signature}'; it has {listed}."
            )
        return signature

    def __call__(self, x: Any) -> Any:
        """Return the outputs of the signature for a batch of inputs.

        Args:
            x: A tensor, or a dictionary by the names of the signature's inputs.

        Returns:
            A tensor, or a dictionary by name where there are several outputs.

        Raises:
            ValueError: If the batch does not fit the signature.
        """
        what = f"The signature '{self.signature}' of '{self.path}'"
        if isinstance(x, (list, tuple)) and len(x) > 1:
            raise ValueError(
                f"{what} takes its inputs by name ({', '.join(self._specs)}), but the data holds "
                "a list. Pass `teacher_inputs=` a function that returns a dictionary by name."
            )
        outputs = self._function(**by_name(x, self._specs, what))
        return outputs if len(outputs) > 1 else next(iter(outputs.values()))
