"""Which weights of a file can be stored sparsely, found out by running it."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Mapping, Sequence

import numpy as np

from keras_kd.export.file_checks import signature_outputs
from keras_kd.export.sparse_encoding import encodable, encode_sparse
from keras_kd.litert.runtime import LiteRuntime, check_file

_SAMPLES = 8


def make_sparse(
    content: bytes, samples: Sequence[Mapping[str, np.ndarray]] | None, target: pathlib.Path
) -> tuple[bytes, str]:
    """Encode a file's weights sparsely as far as LiteRT then gives the same outputs.

    LiteRT's default delegate, XNNPACK, refuses some operators, and computes others wrongly, whose
    weights are filled in when the file is loaded. If not all can be encoded, the weights of one
    operator after the other are tried.

    Args:
        content: A TFLite file's bytes.
        samples: Arrays by input name, each of batch size 1, to compare outputs on. `None`: random
            numbers.
        target: The file's final name, for the message.

    Returns:
        The bytes, no more than there were, and a sentence about what stayed dense, or `""`.
    """
    groups = encodable(content)
    with tempfile.TemporaryDirectory() as name:
        trial = _Trial(pathlib.Path(name), content, samples)
        encoded = encode_sparse(content, groups)
        if len(encoded) >= len(content):
            return content, (
                f"'{target}' is written without sparse encoding, with which it would be no "
                "smaller: no weight has zeros enough; leave `sparse=True` out."
            )
        reason = trial.difference(encoded)
        if not reason:
            return encoded, ""
        chosen: list[tuple[str, str]] = []
        best = content
        for group in groups if len(groups) > 1 else ():
            encoded = encode_sparse(content, [*chosen, group])
            if len(encoded) < len(best) and not trial.difference(encoded):
                chosen, best = [*chosen, group], encoded
    left = ", ".join(f"{op} ({kind})" for kind, op in groups if (kind, op) not in chosen)
    return best, (
        f"'{target}' stores the weights of {left} densely in spite of `sparse=True`: {reason}; "
        'a pruned model is smallest with quantization="int8" where it is made of convolutions, and '
        'with "float16" or "float32" where it is made of dense layers.'
    )


class _Trial:
    """Runs encoded files beside the dense one.

    Args:
        folder: Where they are written.
        content: The dense file's bytes.
        samples: Inputs to compare outputs on, or `None`.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        content: bytes,
        samples: Sequence[Mapping[str, np.ndarray]] | None,
    ) -> None:
        self._folder = folder
        self._count = 0
        file = self._write(content)
        runtime = LiteRuntime(file)
        self._samples = list(samples or ())[:_SAMPLES] or [
            runtime.example_inputs(seed) for seed in range(_SAMPLES)
        ]
        self._expected = self._outputs(file)

    def difference(self, content: bytes) -> str:
        """Return why an encoded file may not be handed over, or `""`."""
        file = self._write(content)
        try:
            check_file(file)
            outputs = self._outputs(file)
        except (ValueError, RuntimeError) as error:
            text = str(error).replace(f"'{file}'", "it").splitlines()
            return " ".join(text)[:200].rstrip(". ")
        for given, wanted in zip(outputs, self._expected, strict=True):
            for name, values in wanted.items():
                gap = float(np.abs(given[name].astype(float) - values).max(initial=0.0))
                if not gap <= 1e-4 * float(np.abs(values).max(initial=0.0)) + 1e-6:
                    return f"LiteRT then computes '{name}' with an error of {gap:.2g}"
        return ""

    def _write(self, content: bytes) -> pathlib.Path:
        self._count += 1
        file = self._folder / f"{self._count}.tflite"
        file.write_bytes(content)
        return file

    def _outputs(self, file: pathlib.Path) -> list[dict[str, np.ndarray]]:
        runtime = LiteRuntime(file)
        return [*(runtime.predict(sample) for sample in self._samples), signature_outputs(file)]
