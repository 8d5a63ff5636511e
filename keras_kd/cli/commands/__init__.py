"""All commands, in the order of `keras-kd --help`."""

from __future__ import annotations

from keras_kd.cli.commands import (
    benchmark,
    check,
    compress,
    demo,
    distill,
    export,
    measure,
    report,
    run,
    search,
)

COMMANDS = {
    module.COMMAND.name: module.COMMAND
    for module in (demo, check, search, distill, compress, export, benchmark, measure, report, run)
}
