"""export_c_array: a TFLite file as C++ source for TensorFlow Lite for Microcontrollers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import re
import zlib
from typing import Any

from keras_kd.export.micro.arena import estimate_arena
from keras_kd.export.micro.operators import different_operators, refusal, resolver_calls
from keras_kd.export.micro.source import MARK, Facts, c_type, header_text, source_text
from keras_kd.export.micro.trial import Trial, available, run_trial
from keras_kd.litert.loading import probe_file
from keras_kd.litert.metadata import described
from keras_kd.litert.model_file import FLOATS, Graph, ModelFile, Tensor
from keras_kd.system.arguments import number
from keras_kd.system.files import atomic_path, check_writable
from keras_kd.system.names import suggests_arguments
from keras_kd.system.user_warning import warn_user

_SUFFIXES = {".h": ".cc", ".cc": ".cc", ".cpp": ".cpp", "": ".cc"}
_RESERVED = """
    alignas alignof and asm auto bool break case catch char class compl const constexpr continue
    decltype default delete do double else enum explicit export extern false final float for friend
    goto if import inline int long module mutable namespace new noexcept not nullptr operator or
    override private protected public register return short signed sizeof static std struct switch
    template this throw true try typedef typeid typename union unsigned using virtual void volatile
    while xor tflite
"""
_ROOM = 1.1  # for optimized kernels, which may ask for more working memory than reference ones


@dataclasses.dataclass(frozen=True)
class CArray:
    """What `export_c_array` wrote.

    Attributes:
        header: The header.
        source: The source file with the array.
        name: The namespace of everything in them.
        bytes: Size of the model.
        operators: The calls that register its operators, as `"AddConv2D"`.
        arena_size: The arena size in the header, in bytes.
        arena_bytes: The smallest arena in which TensorFlow Lite for Microcontrollers ran the file
            on this machine, in bytes, or `None` if it was not run.
        max_difference: Largest absolute difference between its outputs and LiteRT's in that
            run, or `None` if it was not run.
        latency_ms: Median time of a sample in that run, in milliseconds, or `None` if it was not
            run. It compares files with each other; a device takes another time.
    """

    header: pathlib.Path
    source: pathlib.Path
    name: str
    bytes: int
    operators: tuple[str, ...]
    arena_size: int
    arena_bytes: int | None
    max_difference: float | None
    latency_ms: float | None

    @property
    def largest_difference(self) -> float | None:
        """The earlier name of `max_difference`."""
        return self.max_difference


@suggests_arguments
def export_c_array(
    tflite_path: str | os.PathLike[str],
    out_path: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
    arena_size: int | None = None,
    class_names: list[str] | tuple[str, ...] | None = None,
    trial: bool | None = None,
    allow_differences: bool = False,
) -> CArray:
    """Write a TFLite file as a header and a source file for TensorFlow Lite for Microcontrollers.

    The source file holds the model as an array aligned to 16 bytes. The header holds, in its own
    namespace, the array's size and checksum, an arena size, a function that registers exactly the
    operators of the model in a `tflite::MicroMutableOpResolver`, and shape, type, scale and zero
    point of every input and output. It includes no TensorFlow headers.

    If the package `tflite-micro` is installed (`pip install "keras-kd[micro]"`), the file is run
    in it. A file that it cannot run, or for which it gives other outputs than LiteRT, is refused.
    The smallest arena in which it runs is measured with the reference kernels on this machine. The
    header's `kArenaSize` is 10 % larger, because optimized kernels (CMSIS-NN, ESP-NN) need other
    working memory, and rounded up to 1,024 bytes. Otherwise it is an estimate from the lifetimes
    of the file's tensors, and the header says so.

    Args:
        tflite_path: The file, with an input shape that is fixed except for the batch. An open
            batch becomes 1.
        out_path: The header or source file to write, or the path of both without a suffix. With
            `.cpp`, the source has that suffix. Defaults to `None`: the file's name, with `.h` and
            `.cc`.
        name: The namespace. Defaults to `None`: the header's name without its suffix, with
            underscores for invalid characters.
        arena_size: `kArenaSize` in bytes, such as `interpreter.arena_used_bytes()` on the device.
            Defaults to `None`, as above.
        class_names: Names of the classes, for `kClassNames`. Defaults to `None`: those that
            `export_tflite` wrote into the JSON file beside the model, if any.
        trial: Whether to run the file in the package `tflite-micro`. Defaults to `None`: if it is
            installed.
        allow_differences: Whether to write, with a warning, a file whose outputs on a
            microcontroller differ from LiteRT's: for a float file, by more than 0.0001 of the
            largest output; otherwise by more than a quantization step and 0.01 of it (root mean
            square), because both round in each layer. If the file is not run, operators that are
            known to differ count. Defaults to `False`.

    Returns:
        A `CArray`.

    Raises:
        OSError: If there is no file at `tflite_path`, or the two files cannot be written; a
            `FileExistsError` if one of them exists and was not written by this function.
        ValueError: If the file is damaged, or TensorFlow Lite for Microcontrollers cannot run it
            (operators without a kernel, dynamic range quantization, float16, a sparse encoding,
            an open input shape) or computes it differently, or an argument is invalid.
        ImportError: If `trial=True` and `tflite-micro` is not installed.

    Example:

    ```python
    keras_kd.export_tflite(
        student, "student.tflite", "int8", representative_data=train, integer_io=True
    )
    written = keras_kd.export_c_array("student.tflite", "firmware/student_model")
    print(written.arena_size, written.operators)
    ```
    """
    number("arena_size", arena_size, least=1, whole=True, optional=True)
    if trial and not available():
        raise ImportError(
            "`trial=True` runs the file in the package `tflite-micro`, which is not installed: "
            'pip install "keras-kd[micro]".'
        )
    header, source = _targets(pathlib.Path(tflite_path), out_path)
    name = _namespace(name, header)
    path = probe_file(tflite_path).path
    content = path.read_bytes()
    file = ModelFile(content)
    graphs = file.graphs()
    reason = refusal(graphs) or _no_type(graphs[0])
    if reason is not None:
        raise ValueError(f"'{path}' {reason}")
    for target in (header, source):
        _check_ours(check_writable(target))
    cures = different_operators(graphs)
    estimate = estimate_arena(graphs)
    tried = run_trial(path, estimate) if trial or (trial is None and available()) else None
    differs = bool(cures) if tried is None else tried.differs
    if differs:
        text = _difference(path, tried, cures)
        if not allow_differences:
            raise ValueError(
                f"{text} Received: allow_differences=False. Pass `allow_differences=True` to write "
                "it all the same."
            )
        warn_user(text)
    metadata = described(path, content, without_checksum=True) or {}
    inputs, outputs = (
        [graphs[0].tensors[i] for i in ends] for ends in (graphs[0].inputs, graphs[0].outputs)
    )
    facts = Facts(
        name=name,
        origin=path.name,
        content=content,
        crc32=zlib.crc32(content),
        sha256=hashlib.sha256(content).hexdigest(),
        calls=resolver_calls(graphs),
        inputs=inputs,
        outputs=outputs,
        class_names=_class_names(class_names, metadata, outputs),
        preprocessing=_text(metadata.get("preprocessing")),
        trial_note=_trial_note(tried),
        remembers=file.remembers,
        **_arena(arena_size, tried, estimate),
    )
    with atomic_path(header) as first, atomic_path(source) as second:
        first.write_text(header_text(facts), encoding="utf-8", newline="\n")
        second.write_text(source_text(facts, header.name), encoding="utf-8", newline="\n")
    return CArray(
        header=header,
        source=source,
        name=name,
        bytes=len(content),
        operators=tuple(facts.calls),
        arena_size=facts.arena_size,
        arena_bytes=None if tried is None else tried.arena_bytes,
        max_difference=None if tried is None else tried.max_difference,
        latency_ms=None if tried is None else tried.latency_ms,
    )


def _targets(
    path: pathlib.Path, out_path: str | os.PathLike[str] | None
) -> tuple[pathlib.Path, pathlib.Path]:
    if out_path is None:
        return path.with_suffix(".h"), path.with_suffix(".cc")
    out = pathlib.Path(out_path)
    if out.is_dir() or not out.name:
        raise IsADirectoryError(
            f"`out_path` '{out}' is a folder. Pass the name of the files inside it: "
            f"'{out / path.stem}'."
        )
    if out.suffix not in _SUFFIXES:
        raise ValueError(
            f"`out_path` must end in .h, .cc or .cpp, or have no suffix. Received: '{out}'."
        )
    return out.with_suffix(".h"), out.with_suffix(_SUFFIXES[out.suffix])


def _namespace(name: str | None, header: pathlib.Path) -> str:
    if name is None:
        name = re.sub(r"\W|[^\x00-\x7f]", "_", header.stem)
        name = re.sub(r"_+", "_", name).strip("_").lower() or "model"
        return f"model_{name}" if name[0].isdigit() or name in _RESERVED.split() else name
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII):
        raise ValueError(
            "`name` becomes a C++ namespace: use letters, digits and underscores, a letter "
            f"first. Received: {name!r}."
        )
    if name in _RESERVED.split() or "__" in name:
        raise ValueError(f"`name` {name!r} is reserved in C++. Use another one.")
    return name


def _check_ours(target: pathlib.Path) -> None:
    if not target.exists():
        return
    with open(target, "rb") as file:
        if file.read(len(MARK)) == MARK.encode():
            return
    raise FileExistsError(
        f"'{target}' exists and was not written by export_c_array, so it is not overwritten. "
        "Pass another `out_path`, or remove it."
    )


def _no_type(model: Graph) -> str | None:
    for index in (*model.inputs, *model.outputs):
        tensor = model.tensors[index]
        if c_type(tensor) is None:
            return (
                f"has an input or output '{tensor.name}' of type {tensor.kind.lower()}, which "
                "has no type in C++."
            )
    return None


def _arena(given: int | None, tried: Trial | None, estimate: int) -> dict[str, Any]:
    if given is not None:
        return {"arena_size": given, "arena_note": "The arena size that was requested."}
    if tried is None:
        return {
            "arena_size": _rounded(estimate),
            "arena_note": "An ESTIMATE from the lifetimes of the tensors; it was not measured.",
        }
    return {
        "arena_size": _rounded(tried.arena_bytes * _ROOM),
        "arena_note": (
            f"Ran in {tried.arena_bytes:,} bytes on a 64-bit machine with reference kernels; "
            "a tenth is added."
        ),
    }


def _rounded(size: float) -> int:
    return -int(-size // 1024) * 1024


def _trial_note(tried: Trial | None) -> str:
    if tried is None:
        return "Not run in TensorFlow Lite for Microcontrollers when it was written."
    return (
        "Run in TensorFlow Lite for Microcontrollers when it was written: outputs differ from "
        f"LiteRT's by at most {tried.max_difference:.3g}."
    )


def _difference(path: pathlib.Path, tried: Trial | None, cures: dict[str, str]) -> str:
    text = f"TensorFlow Lite for Microcontrollers and LiteRT give different outputs for '{path}'"
    if tried is not None:
        text += (
            f": they differ by {tried.max_difference:.3g}, where the largest output is "
            f"{tried.output_range:.3g}"
        )
    for name, cure in cures.items():
        text += f". It computes {name} differently: {cure}"
    if not cures:
        text += ". Replace the layers that cause it, or compare the two on your own data"
    return f"{text}."


def _class_names(
    given: list[str] | tuple[str, ...] | None, metadata: dict[str, Any], outputs: list[Tensor]
) -> tuple[str, ...]:
    names = metadata.get("class_names") if given is None else given
    if names is None:
        return ()
    if not isinstance(names, (list, tuple)) or not all(isinstance(n, str) for n in names):
        raise ValueError(f"`class_names` must be a list of strings. Received: {names!r}.")
    # One unit answers with the first or the second of two classes.
    floats = [tensor for tensor in outputs if tensor.scales or tensor.kind in FLOATS]
    classes = [max(tensor.shape[-1], 2) for tensor in floats if tensor.shape]
    # Of how many classes an integer is one, a file does not tell.
    if len(names) in classes or len(floats) < len(outputs):
        return tuple(names)
    text = (
        f"There are {len(names)} class names, and the outputs have "
        f"{', '.join(map(str, classes)) or 'no'} classes."
    )
    if given is not None:
        raise ValueError(f"{text} Pass one name per class.")
    warn_user(f"{text} The names in the JSON file are not used.")
    return ()


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)
