"""`keras-kd distill`: a student learns from a teacher."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

from keras_kd.cli.command import Checked, Command, Number, Option
from keras_kd.cli.console import Console, Outcome
from keras_kd.cli.named import check_optimizer, shrink_ratio
from keras_kd.cli.shared_options import data_options, run_options, teaching_options

if TYPE_CHECKING:
    from keras_kd.cli.model_files import LoadedModel

COMMAND = Command(
    "distill",
    short_help="a large trained model teaches a small one",
    help="""\
A large trained model, the teacher, teaches a small one, the student, which learns from your labels
and from the teacher's outputs. The folder given with --out then holds student.keras,
student.keras.json (its preprocessing and class names), result.json and recipe.toml.

The student is a saved model (.keras, trained or not), or shrink:0.5: the teacher without the less
important half of its channels.""",
    example="""\
  keras-kd distill --teacher big.keras --student shrink:0.5 --data pictures --scale 255 --epochs 20
  keras-kd distill --teacher big.keras --student small.keras --data fashion_mnist --scale 255 \\
                   --loss kl_divergence rkd:0.02 --hint block4_out:block2_out:fit_net:0.5""",
    params=(
        Option("student", "a saved model, or shrink:RATIO for the teacher without this fraction of "
               "its channels", metavar="FILE|shrink:RATIO", required=True,
               type=Checked(shrink_ratio)),
        *data_options(),
        *teaching_options(),
        Option("epochs", "passes over the data", type=Number(int, least=1), default=10),
        Option("learning_rate", "of the optimizer", type=Number(least=0.0), default=1e-3,
               metavar="RATE"),
        Option("optimizer", "a Keras optimizer by name", default="adam", metavar="NAME",
               type=Checked(check_optimizer)),
        *run_options("runs/distill"),
    ),
)  # fmt: skip


@COMMAND.does
def run(settings: dict[str, Any], console: Console) -> Outcome:
    """Distil, or resume it."""
    import keras

    from keras_kd.cli.model_files import load_model, write_notes
    from keras_kd.cli.out_folder import OutFolder
    from keras_kd.cli.teaching import (
        compile_distiller,
        damaged_images_named,
        make_distiller,
        notes_of,
        task_data,
        training_batches,
        warn_of_lost_stages,
    )
    from keras_kd.distilling.backup import BackupAndRestore
    from keras_kd.models.weights import check_finite_weights
    from keras_kd.system.files import atomic_path

    file = settings["student"] if shrink_ratio(settings["student"]) is None else None
    if file is not None and not pathlib.Path(file).is_file():
        raise FileNotFoundError(
            f"There is no file '{file}'. Received: --student {file}. Give a saved model (.keras), "
            "or shrink:RATIO, such as shrink:0.5."
        )
    files = [settings["teacher"], file]
    folder = OutFolder(COMMAND, settings, files)
    if (done := folder.done(console)) is not None:
        return Outcome(done, _text(done))
    keras.utils.set_random_seed(settings["seed"])
    teacher = load_model(settings["teacher"], settings["custom_objects"])
    student = _student(settings, teacher, console)
    warn_of_lost_stages(student)
    data = task_data(settings, teacher, student, console)
    distiller = make_distiller(settings, teacher, student, data.preprocessing)
    optimizer = type(keras.optimizers.get(settings["optimizer"]))
    compile_distiller(distiller, student, optimizer(learning_rate=settings["learning_rate"]))
    _say_sizes(teacher, student, console)
    with folder.begun(), damaged_images_named(data):
        train = training_batches(settings, data, distiller, folder.path, console)
        # The backup stays until the student is saved: a run killed before does not train again.
        backup = BackupAndRestore(folder.path / "distill.backup", delete_checkpoint=False)
        distiller.fit(
            train.make(settings["seed"], backup.epochs_done()),
            validation_data=data.validation,
            epochs=settings["epochs"],
            shuffle=False,  # the dataset is shuffled already; Keras warns of its own default
            callbacks=[backup],
            verbose=console.verbose,
        )
    try:
        check_finite_weights(student.keras_model, "student")
    except ValueError:
        backup.delete()  # from which the next run would go on
        raise
    path = folder.path / "student.keras"
    with atomic_path(path) as temporary:
        student.keras_model.save(temporary)
    notes = notes_of(settings, data)
    write_notes(path, notes)
    result = folder.finish(
        {
            "model": path.as_posix(),
            "epochs": settings["epochs"],
            "parameters": student.keras_model.count_params(),
            "teacher_parameters": teacher.keras_model.count_params(),
            "metrics": {key: values[-1] for key, values in backup.history.items()},
            "history": backup.history,
            "seconds": backup.seconds,
            "notes": notes,
        }
    )
    backup.delete()
    return Outcome(result, _text(result))


def _student(settings: dict[str, Any], teacher: LoadedModel, console: Console) -> LoadedModel:
    import keras_kd as kd
    from keras_kd.cli.model_files import LoadedModel, load_model

    text = settings["student"]
    ratio = shrink_ratio(text)
    if ratio is None:
        return load_model(text, settings["custom_objects"])
    console.say(f"Student: the teacher without {ratio:.0%} of its channels")
    return LoadedModel(text, kd.shrink(teacher.keras_model, ratio), teacher.notes)


def _say_sizes(teacher: LoadedModel, student: LoadedModel, console: Console) -> None:
    sizes = [model.keras_model.count_params() for model in (teacher, student)]
    console.say(f"Teacher: {sizes[0]:,} parameters. Student: {sizes[1]:,}")


def _text(result: dict[str, Any]) -> str:
    metrics = result["metrics"]
    accuracy = metrics.get("val_accuracy", metrics.get("accuracy"))
    kind = "validation" if "val_accuracy" in metrics else "training"
    return (
        f"{result['model']}: {result['parameters']:,} parameters (teacher "
        f"{result['teacher_parameters']:,}), {kind} accuracy {accuracy:.2%}"
    )
