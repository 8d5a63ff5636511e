"""Settings that several commands share: the data, the teaching, the run."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import click

from keras_kd.cli.command import Checked, Number, Option
from keras_kd.cli.named import make_hint, make_loss, object_name

DATA_HELP = (
    "a folder of images (one subfolder per class), a .npz file with x and y, or a TFDS dataset "
    "such as fashion_mnist, 'fashion_mnist:train[:90%]' or digits (needs no download)"
)

_data = functools.partial(Option, section="data")
_teaching = functools.partial(Option, section="teaching")


def input_options() -> tuple[Option, ...]:
    """Return the settings of how the model's input is made of the data."""
    return (
        _data("scale", "the model's input is pixel / SCALE + OFFSET: 255 for a model that takes "
              "0..1, 127.5 with --offset -1 for -1..1, 1 for a model that takes 0..255; not needed "
              "for files of keras-kd, which store it", type=Number(nonzero=True)),
        _data("offset", "see --scale; 0 if not given", type=Number()),
    )  # fmt: skip


def data_options(required: bool = True) -> tuple[Option, ...]:
    """Return the settings of training data."""
    return (
        _data("data", DATA_HELP, metavar="DATA", required=required),
        _data("validation_data", "validation data of the same kinds, instead of a part of --data",
              metavar="DATA"),
        _data("validation_split", "the fraction of --data to hold out for validation, without "
              "--validation-data", type=Number(least=0.0, below=1.0), default=0.1, metavar="PART"),
        *input_options(),
        _data("batch_size", "examples per batch", type=Number(int, least=1), default=32),
    )  # fmt: skip


def validation_needed(settings: Mapping[str, Any], why: str) -> None:
    """Refuse settings without validation data.

    Args:
        settings: Those of `data_options`.
        why: What needs validation data, for the error.

    Raises:
        click.UsageError: If nothing is held out, and no validation data are given.
    """
    if settings["validation_data"] is None and settings["validation_split"] == 0:
        raise click.UsageError(
            f"{why}. Received: --validation-split 0. Give --validation-data, or a larger part."
        )


def teacher_input_options(differs: str = "where it differs") -> tuple[Option, ...]:
    """Return the settings of how the teacher's input is made of the data."""
    return (
        _teaching("teacher_scale", f"--scale of the teacher, {differs}",
                  type=Number(nonzero=True), metavar="SCALE"),
        _teaching("teacher_offset", "--offset of the teacher; needs --teacher-scale",
                  type=Number(), metavar="OFFSET"),
    )  # fmt: skip


def teaching_options() -> tuple[Option, ...]:
    """Return the settings of teacher and losses."""
    return (
        _teaching("teacher", "the trained large model: .keras or .h5", metavar="FILE",
                  required=True),
        *teacher_input_options("where it differs from the student's"),
        _teaching("loss", "how the student learns from the teacher's outputs: the name of a loss "
                  "of keras_kd.losses, such as kl_divergence, dkd, 'dist(beta=2.0)', with a weight "
                  "after a colon, rkd:0.02 (default: kl_divergence, or binary_kl_divergence for "
                  "one output unit and for sigmoids)", metavar="LOSS[:WEIGHT]", multiple=True,
                  type=Checked(make_loss)),
        _teaching("hint", "teach an inner layer: TEACHER_LAYER:STUDENT_LAYER, with a loss on "
                  "features (default fit_net) and a weight (default 1) after further colons",
                  multiple=True, type=Checked(make_hint)),
        _teaching("temperature", "softens the compared outputs, for losses with a temperature",
                  type=Number(above=0.0), default=4.0),
        _teaching("student_loss_weight", "from 0 (the teacher alone) to 1 (the labels alone)",
                  type=Number(least=0.0, most=1.0), default=0.1, metavar="WEIGHT"),
        _teaching("cache_teacher", "run the teacher once and cache its outputs in the run's "
                  "folder: faster for a large teacher", type=bool, default=False),
    )  # fmt: skip


def custom_objects_option() -> Option:
    """Return the setting for models with your own layers."""
    return Option(
        "custom_objects", "classes or functions that the model files name, from a Python module "
        "that can be imported from here: my_layers:Gate", section="", metavar="MODULE:NAME",
        multiple=True, type=Checked(object_name),
    )  # fmt: skip


def out_option(default: str | None, text: str | None = None) -> Option:
    """Return the setting of the folder that a run writes into."""
    text = text or "the folder to write to; a folder with another run is refused"
    return Option("out", text, section="", default=default, metavar="FOLDER")


def run_options(out: str | None) -> tuple[Option, ...]:
    """Return the settings of a run that writes into a folder."""
    return (
        out_option(out),
        Option("seed", "the random seed", section="", type=Number(int, least=0), default=0),
        custom_objects_option(),
    )
