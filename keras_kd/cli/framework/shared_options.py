"""Settings that several commands share: the data, the teaching, the run."""

from __future__ import annotations

from keras_kd.cli.framework.option import Option

DATA_HELP = (
    "a folder of images (one subfolder a class), a .npz file with x and y, or a TFDS data set such "
    "as fashion_mnist, 'fashion_mnist:train[:90%]' or digits (needs no download)"
)


def data_options(required: bool = True) -> tuple[Option, ...]:
    """Return the settings of training data."""
    return (
        Option("data", "text", DATA_HELP, section="data", metavar="DATA", required=required),
        Option(
            "validation_data",
            "text",
            "validation data, given in the same way, instead of a part of --data",
            section="data",
            metavar="DATA",
        ),
        Option(
            "validation_split",
            "number",
            "the part of --data that is held out for validation, without --validation-data",
            default=0.1,
            section="data",
            metavar="PART",
            least=0.0,
        ),
        *input_options(),
        Option("batch_size", "integer", "examples a batch", default=32, section="data", least=1),
    )


def input_options() -> tuple[Option, ...]:
    """Return the settings of how the model's input is made of the data."""
    return (
        Option(
            "scale",
            "number",
            "the model's input is pixel / SCALE + OFFSET: 255 for a model that takes 0..1, 127.5 "
            "with --offset -1 for -1..1, 1 for a model that takes 0..255; what a file of keras-kd "
            "was trained with need not be repeated",
            section="data",
        ),
        Option("offset", "number", "see --scale; 0 if not given", section="data"),
    )


def teaching_options() -> tuple[Option, ...]:
    """Return the settings of teacher and losses."""
    return (
        Option(
            "teacher",
            "text",
            "the trained large model: .keras or .h5",
            section="teaching",
            metavar="FILE",
            required=True,
        ),
        Option(
            "teacher_scale",
            "number",
            "--scale of the teacher, where it differs from the student's",
            section="teaching",
            metavar="SCALE",
        ),
        Option(
            "teacher_offset",
            "number",
            "--offset of the teacher, where it differs from the student's",
            section="teaching",
            metavar="OFFSET",
        ),
        Option(
            "loss",
            "texts",
            "what the student learns from the teacher's outputs: the name of a loss of "
            "keras_kd.losses, such as kl_divergence, dkd, 'dist(beta=2.0)', with a weight behind a "
            "colon, rkd:0.02 (default: kl_divergence, or binary_kl_divergence for one output unit)",
            section="teaching",
            metavar="LOSS[:WEIGHT]",
        ),
        Option(
            "hint",
            "texts",
            "teach an inner layer: TEACHER_LAYER:STUDENT_LAYER, with a loss on features (default "
            "fit_net) and a weight (default 1) behind further colons",
            section="teaching",
            metavar="HINT",
        ),
        Option(
            "temperature",
            "number",
            "softens the outputs that are compared, for losses that take a temperature",
            default=4.0,
            section="teaching",
            above=0.0,
        ),
        Option(
            "student_loss_weight",
            "number",
            "from 0 (the teacher alone) to 1 (the labels alone)",
            default=0.1,
            section="teaching",
            metavar="WEIGHT",
            least=0.0,
            most=1.0,
        ),
        Option(
            "cache_teacher",
            "switch",
            "run the teacher once and keep what it says in the run's folder: faster where the "
            "teacher is large",
            default=False,
            section="teaching",
        ),
    )


def custom_objects_option() -> Option:
    """Return the setting for models with layers of one's own."""
    return Option(
        "custom_objects",
        "texts",
        "classes or functions that the model files name, from a Python module that can be imported "
        "from here: my_layers:Gate",
        section="",
        metavar="MODULE:NAME",
    )


def run_options(out: str | None) -> tuple[Option, ...]:
    """Return the settings of a run that writes into a folder."""
    return (
        Option(
            "out",
            "text",
            "the folder to write into; one that holds another run is refused",
            default=out,
            section="",
            metavar="FOLDER",
        ),
        Option("seed", "integer", "fixes what is random", default=0, section="", least=0),
        custom_objects_option(),
    )
