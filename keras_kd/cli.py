"""The command `keras-kd`."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence

import tensorflow as tf

from keras_kd._version import __version__
from keras_kd.quiet import capture_output


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The words behind the command. Defaults to `None`: those of this process.

    Returns:
        The exit code: 0, or 1 after an error that the user can mend.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    # Keras and TensorFlow warn of what the commands do on purpose.
    warnings.filterwarnings("ignore", module="keras|tf_keras|tensorflow")
    try:
        with capture_output():
            tf.config.list_logical_devices()
        return int(options.run(options))
    except (ValueError, OSError) as error:
        print(f"keras-kd: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("keras-kd: interrupted; the same command goes on from here.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="keras-kd",
        description="Turn a large Keras model into a small TFLite file, and measure the file.",
    )
    parser.add_argument("--version", action="version", version=f"keras-kd {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="train, compress, export and measure on real data",
        description=(
            "Train a teacher, the student alone and the student with the teacher; prune, "
            "quantize, export and measure each file; print one table and write an HTML page and "
            "a JSON beside the files. A run that was stopped goes on where it was."
        ),
    )
    demo.add_argument(
        "--dataset",
        choices=["digits", "fashion_mnist"],
        default="digits",
        help="digits needs no download and takes some 2 minutes; fashion_mnist takes up to 2 hours "
        "on 2 cores (default: digits)",
    )
    demo.add_argument("--out", metavar="FOLDER", help="the run's folder (default: exports/DATASET)")
    demo.add_argument(
        "--seeds", type=int, default=1, help="students to train, one a seed (default: 1)"
    )
    demo.add_argument("--verbose", action="store_true", help="show every epoch of every training")
    demo.set_defaults(run=_demo)
    return parser


def _demo(options: argparse.Namespace) -> int:
    from keras_kd.demo.run import run_demo

    run_demo(
        options.dataset,
        options.out or f"exports/{options.dataset}",
        seeds=options.seeds,
        verbose=2 if options.verbose else 0,
        say=lambda line: print(line, flush=True),
    )
    return 0
