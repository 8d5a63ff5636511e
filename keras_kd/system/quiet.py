"""Holding back what TensorFlow and its converters print, unless they fail."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import IO


class CapturedOutput:
    """The text written to stdout and stderr while `capture_output` was active.

    Attributes:
        text: What was written so far, in order.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(mode="w+b")  # noqa: SIM115
        self._text: str | None = None

    def fileno(self) -> int:
        """The descriptor which the output is sent to."""
        return self._file.fileno()

    @property
    def text(self) -> str:
        """What was written so far, in order."""
        if self._text is not None:
            return self._text
        _flush()
        # A second descriptor would share the offset which the writers append at: pread does not.
        size = os.fstat(self.fileno()).st_size
        return os.pread(self.fileno(), size, 0).decode("utf-8", errors="replace")

    def close(self) -> None:
        """Keep the text and give the temporary file back."""
        self._text = self.text
        self._file.close()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()
    # C++ code prints through the C library's own buffers.
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).fflush(None)


def _log_handlers() -> list[logging.StreamHandler]:
    """The handlers of TensorFlow, absl and the root logger, which keep a stream of their own."""
    handlers: list[logging.StreamHandler] = []
    for name in (None, "absl", "tensorflow"):
        for handler in logging.getLogger(name).handlers:
            handler = getattr(handler, "python_handler", handler)  # absl wraps its own
            if isinstance(handler, logging.StreamHandler):
                handlers.append(handler)
    return handlers


@contextlib.contextmanager
def capture_output(replay_on_error: bool = True) -> Iterator[CapturedOutput]:
    """Hold back everything that is written to stdout and stderr, by Python or by C++.

    The redirection is done on file descriptors 1 and 2, on `sys.stdout` and `sys.stderr` and on
    TensorFlow's log handlers, and is undone at the end. It is the whole process's: output of other
    threads is held back too. Uses may be nested.

    Args:
        replay_on_error: Whether an exception lets the held back text out to stderr. Set it to
            `False` if the text becomes a part of the error's own message. Defaults to `True`.

    Yields:
        A `CapturedOutput`, whose `text` is readable during and after the `with` statement.

    Example:

    ```python
    with capture_output() as captured:
        content = converter.convert()
    print("XNNPACK" in captured.text)  # False
    ```
    """
    captured = CapturedOutput()
    _flush()
    saved: dict[int, int] = {}
    streams = sys.stdout, sys.stderr
    handlers: list[tuple[logging.StreamHandler, object]] = []
    writer = os.fdopen(
        os.dup(captured.fileno()), "w", encoding="utf-8", errors="replace", buffering=1
    )
    failed = False
    try:
        for descriptor in (1, 2):
            with contextlib.suppress(OSError):  # a process may have been started without them
                saved[descriptor] = os.dup(descriptor)
                os.dup2(captured.fileno(), descriptor)
        sys.stdout = sys.stderr = writer
        for handler in _log_handlers():
            if handler.stream in (*streams, sys.__stdout__, sys.__stderr__):
                handlers.append((handler, handler.setStream(writer)))
        yield captured
    except BaseException:
        failed = True
        raise
    finally:
        _flush()
        for handler, stream in handlers:
            handler.setStream(stream)  # type: ignore[arg-type]
        for handler in _log_handlers():
            if handler.stream is writer:  # made meanwhile, as by an import
                handler.setStream(streams[1])
        sys.stdout, sys.stderr = streams
        for descriptor, copy in saved.items():
            os.dup2(copy, descriptor)
            os.close(copy)
        writer.close()
        captured.close()
        if failed and replay_on_error and captured.text:
            print(captured.text, file=sys.stderr, end="")


# What TensorFlow writes of its own accord on a machine without a GPU and of data that end or are
# only begun, in lines of the form "W0000 00:00:1700000000.123456  1234 file.cc:123] text".
_NOISE = re.compile(
    rb"[IWE]\d{4} [\d:.]+ +\d+ "
    rb"(port|cpu_feature_guard|cudart_stub|cuda_\w+|generator_dataset_op|cache_dataset_ops"
    rb"|local_rendezvous)\.cc:\d+\] |WARNING: All log messages before absl::InitializeLog\(\)"
    rb"|To enable the following instructions: "
)


@contextlib.contextmanager
def without_noise() -> Iterator[None]:
    """Hold back known lines of TensorFlow's log that report nothing.

    All other lines of the block stand on stderr at its end. Only descriptor 2 is redirected, which
    C++ writes to: what Python prints on stdout is shown at once.
    """
    with tempfile.TemporaryFile() as kept, contextlib.ExitStack() as after:
        with contextlib.suppress(OSError):  # a process may have been started without it
            saved = os.dup(2)
            after.callback(_show_again, saved, kept)
            _flush()
            os.dup2(kept.fileno(), 2)
        yield


def _show_again(saved: int, kept: IO[bytes]) -> None:
    _flush()
    os.dup2(saved, 2)
    os.close(saved)
    kept.seek(0)
    for line in kept:
        if not _NOISE.match(line):
            os.write(2, line)


@contextlib.contextmanager
def without_retracing_warnings() -> Iterator[None]:
    """Hold back TensorFlow's warning that functions are traced often, where that is meant."""

    def keep(record: logging.LogRecord) -> bool:
        return "triggered tf.function retracing" not in record.getMessage()

    logger = logging.getLogger("tensorflow")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
