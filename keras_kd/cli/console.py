"""What a command prints, and where: its result on stdout, with `--json` nothing else there."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from keras_kd.system.json_values import plain
from keras_kd.system.shown_text import shown


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of a command.

    Attributes:
        result: What `--json` prints.
        text: The same for people.
        exit_code: The exit code. Defaults to `0`.
    """

    result: dict[str, Any]
    text: str
    exit_code: int = 0


@dataclasses.dataclass
class Console:
    """Prints the progress and the result of a command.

    Attributes:
        json: Whether stdout is for the JSON alone. Defaults to `False`.
        quiet: Whether progress is left out. Defaults to `False`.
        debug: Whether the traceback of an error is shown. Defaults to `False`.
    """

    json: bool = False
    quiet: bool = False
    debug: bool = False

    @property
    def verbose(self) -> int:
        """Verbosity of training as in `keras.Model.fit`: bars in a terminal, lines in a log."""
        if self.quiet:
            return 0
        stream = sys.stderr if self.json else sys.stdout
        return 1 if stream.isatty() else 2

    def say(self, line: str) -> None:
        """Print a line of progress."""
        if not self.quiet:
            print(shown(line), file=sys.stderr if self.json else sys.stdout, flush=True)

    def show(self, outcome: Outcome) -> None:
        """Print the result of a command."""
        if self.json:
            print(json.dumps(plain(outcome.result), indent=1, ensure_ascii=False), flush=True)
        elif outcome.text:
            print(shown(outcome.text), flush=True)


@contextlib.contextmanager
def stdout_to_stderr(active: bool) -> Iterator[None]:
    """Send what is written to stdout, by Python or by C++, to stderr."""
    if not active:
        yield
        return
    sys.stdout.flush()
    saved = None
    with contextlib.suppress(OSError):
        saved = os.dup(1)
        os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stderr.flush()
        if saved is not None:
            os.dup2(saved, 1)
            os.close(saved)
