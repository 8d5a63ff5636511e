"""Small students of a fine-tuned text encoder on IMDB reviews: a transformer and convolutions.

    python benchmarks/imdb_students.py --encoder FOLDER

FOLDER is a preset of KerasHub for `BertBackbone` and `BertTokenizer`, such as all-MiniLM-L6-v2, or
the name of one. The encoder is fine-tuned on the training reviews; the last 2,000 are held out, and
settings were chosen on them. It answers once for every review. Two kinds of students learn from
these answers and the labels, and for comparison from the labels alone, with the same data, epochs
and seeds:

- `transformer`: a convolution over a narrower embedding, whose maxima two transformer layers read;
- `convolutions`: two convolutions over a narrower embedding.

All models read the last word pieces of a review. Every file is measured on the first `--test` test
reviews, the teacher in Keras on the same. Each part is kept in `--out`; rerun the command to
resume. Prints a Markdown table.
"""

import argparse
import pathlib
import statistics
import time

import keras
import numpy as np
from kept_results import check_settings, once, spread, write_results

import keras_kd as kd
from keras_kd.system.files import atomic_path

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
COLUMNS = {"transformer": 64, "convolutions": 12}
EPOCHS = {"transformer": 4, "convolutions": 8}
RATE = 1e-3
BATCH = 32


def kept_arrays(path, make):
    """Return the arrays that `make` gives by name, kept in a file."""
    if not path.exists():
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **make())
    with np.load(path) as arrays:
        return dict(arrays)


def last_pieces(tokens, length):
    """Return the first token and the last `length - 1` of every row that are not padding."""
    rows = [row[row != 0] for row in tokens]
    rows = [row if len(row) <= length else [row[0], *row[1 - length :]] for row in rows]
    return keras.utils.pad_sequences(rows, length, padding="post")


def tokenized(encoder, length, reviews, test):
    """Return tokens and labels of the training and the test reviews."""
    import keras_hub

    tokenizer = keras_hub.models.BertTokenizer.from_preset(encoder)

    def part(split, count):
        split = f"{split}[:{count}]" if count else split
        data = kd.datasets.load("imdb_reviews", split=split, as_supervised=True)
        texts, labels = zip(*data.as_numpy_iterator(), strict=True)
        pieces = tokenizer([text.decode().replace("<br />", " ") for text in texts])
        rows = [
            [tokenizer.cls_token_id, *list(row)[2 - length :], tokenizer.sep_token_id]
            for row in pieces
        ]
        padded = keras.utils.pad_sequences(rows, length, padding="post")
        return padded.astype("uint16"), np.array(labels, "uint8")

    train, tests = part("train", reviews), part("test", test)
    return {"train": train[0], "train_labels": train[1], "test": tests[0], "test_labels": tests[1]}


def teacher_of(encoder, length, frozen):
    """Return the classifier on the encoder, and the encoder."""
    import keras_hub

    backbone = keras_hub.models.BertBackbone.from_preset(encoder, dropout=0.0, name="encoder")
    backbone.trainable = False
    for layer in backbone.transformer_layers[frozen:]:
        layer.trainable = True
    tokens = keras.Input((length,), dtype="int32", name="tokens")
    mask = keras.ops.cast(tokens != 0, "int32")
    states = backbone(
        {"token_ids": tokens, "padding_mask": mask, "segment_ids": keras.ops.zeros_like(tokens)}
    )["sequence_output"]
    x = keras.layers.GlobalAveragePooling1D()(states, mask=mask)
    x = keras.layers.Dropout(0.1)(x)
    outputs = keras.layers.Dense(2, dtype="float32")(x)
    return keras.Model(tokens, outputs, name="teacher"), backbone


def narrow_embedding(backbone, columns):
    """Return an embedding of the table's largest principal components."""
    table = backbone.token_embedding.get_weights()[0]
    table = table @ np.linalg.eigh(table.T @ table)[1][:, -columns:]
    return keras.layers.Embedding(*table.shape, weights=table)


def transformer(backbone, length, columns):
    """Return two transformer layers over the maxima of a convolution's four positions."""
    import keras_hub

    tokens = keras.Input((length,), dtype="int32", name="tokens")
    x = narrow_embedding(backbone, columns)(tokens)
    x = keras.layers.Dropout(0.2)(x)
    x = keras.layers.Conv1D(128, 5, padding="same", activation="relu")(x)
    x = keras.layers.MaxPooling1D(4)(x)
    words = keras.ops.cast(tokens != 0, "float32")[..., None]
    # Seen as padding by the attention and by the mean.
    mask = keras.layers.MaxPooling1D(4)(words)[..., 0]
    x = x + keras_hub.layers.PositionEmbedding(length // 4)(x)
    for _ in range(2):
        layer = keras_hub.layers.TransformerEncoder(256, 4, dropout=0.1, normalize_first=True)
        x = layer(x, padding_mask=mask)
    x = keras.layers.LayerNormalization()(x)
    x = keras.layers.GlobalAveragePooling1D()(x, mask=mask)
    x = keras.layers.Dropout(0.2)(x)
    return keras.Model(tokens, keras.layers.Dense(2)(x), name="transformer")


def convolutions(backbone, length, columns):
    """Return two convolutions over a narrow embedding."""
    tokens = keras.Input((length,), dtype="int32", name="tokens")
    x = narrow_embedding(backbone, columns)(tokens)
    x = keras.layers.Dropout(0.2)(x)
    for _ in range(2):
        x = keras.layers.Conv1D(64, 5, padding="same", activation="relu")(x)
        x = keras.layers.Dropout(0.2)(x)
    x = keras.layers.GlobalMaxPooling1D()(x)
    return keras.Model(tokens, keras.layers.Dense(2)(x), name="convolutions")


NETWORKS = {"transformer": transformer, "convolutions": convolutions}


class Run:
    """One run of the command, with its folder.

    Args:
        chosen: The arguments of the command.
    """

    def __init__(self, chosen):
        self.chosen, self.folder = chosen, chosen.out
        found = kept_arrays(
            self.folder / "tokens.npz",
            lambda: tokenized(chosen.encoder, chosen.length, chosen.reviews, chosen.test),
        )
        cut = len(found["train"]) - chosen.held_out
        self.parts = {
            "train": (found["train"][:cut], found["train_labels"][:cut]),
            "held_out": (found["train"][cut:], found["train_labels"][cut:]),
            "test": (found["test"], found["test_labels"]),
        }
        self.answers = kept_arrays(self.folder / "answers.npz", self.teacher_answers)

    def teacher_answers(self):
        """Return the logits of the fine-tuned encoder for all reviews."""
        chosen = self.chosen
        keras.utils.set_random_seed(0)
        teacher, _ = teacher_of(chosen.encoder, chosen.length, chosen.frozen)
        steps = chosen.teacher_epochs * -(-len(self.parts["train"][0]) // BATCH)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, steps - steps // 10, warmup_target=1e-4, warmup_steps=steps // 10
        )
        optimizer = keras.optimizers.AdamW(rate, weight_decay=0.01)
        teacher.compile(optimizer, LOSS, metrics=["accuracy"], jit_compile=True)
        backup = keras.callbacks.BackupAndRestore(self.folder / "teacher.backup", save_freq=100)
        tokens, labels = self.parts["train"]
        teacher.fit(
            tokens.astype("int32"),
            labels,
            BATCH,
            epochs=chosen.teacher_epochs,
            callbacks=[backup],
            verbose=2,
        )
        return {
            name: teacher.predict(tokens.astype("int32"), 64, verbose=2)
            for name, (tokens, _) in self.parts.items()
        }

    def teacher_accuracy(self):
        """Return the teacher's accuracy on held-out and test reviews, in percent."""
        return {
            part: round(100 * float((self.answers[part].argmax(-1) == labels).mean()), 2)
            for part, (_, labels) in self.parts.items()
            if part != "train"
        }

    def for_student(self, part):
        """Return the tokens that students read, and labels."""
        tokens, labels = self.parts[part]
        return last_pieces(tokens.astype("int32"), self.chosen.student_length), labels

    def student(self, kind, seed, taught):
        """Return a trained student."""
        keras.utils.set_random_seed(seed)
        _, backbone = teacher_of(self.chosen.encoder, self.chosen.length, 0)
        student = NETWORKS[kind](backbone, self.chosen.student_length, COLUMNS[kind])
        tokens, labels = self.for_student("train")
        epochs = self.chosen.epochs or EPOCHS[kind]
        steps = epochs * -(-len(tokens) // BATCH)
        optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(RATE, steps))
        loss = kd.losses.KLDivergence(temperature=2.0)
        inputs = kd.teachers.TaughtInputs(tokens, self.answers["train"])
        distiller = kd.Distiller(None, student, loss, student_loss_weight=0.1 if taught else 1.0)
        distiller.compile(optimizer, LOSS, metrics=["accuracy"], jit_compile=False)
        name = f"{kind}_{'taught' if taught else 'alone'}_{seed}"
        distiller.fit(
            inputs,
            labels,
            batch_size=BATCH,
            epochs=epochs,
            validation_data=self.for_student("held_out"),
            callbacks=[kd.BackupAndRestore(self.folder / f"{name}.backup")],
            verbose=2,
        )
        student.save(self.folder / f"{name}.keras")
        return student, name

    def row(self, kind, seed, taught):
        """Return the files of one student."""
        start = time.time()
        student, name = self.student(kind, seed, taught)
        some = self.for_student("train")[0][:500]
        found = {}
        for form in ("dynamic", "int8"):
            path = self.folder / f"{name}_{form}.tflite"
            kd.export_tflite(
                student, path, form, representative_data=some, batch_size=1, verbose=False
            )
            found[form] = {"bytes": path.stat().st_size}
            for part in ("held_out", "test"):
                result = kd.evaluate_tflite(path, self.for_student(part), runs=1, verbose=False)
                found[form][part] = round(100 * result.accuracy, 2)
        return {**found, "seconds": round(time.time() - start)}


def table_of(measured):
    """Return the Markdown table of the accuracies of `"teacher"` and the files of `"students"`."""
    teacher, students = measured["teacher"], measured["students"]
    lines = [
        "| model | file | bytes | held out, % | test, % | against teacher | seeds |",
        "|---|---|---|---|---|---|---|",
        f"| teacher |  |  | {teacher['held_out']:.2f} | {teacher['test']:.2f} |  | 1 |",
    ]
    for kind in dict.fromkeys(key.rsplit("_", 1)[0] for key in students):
        seeds = [files for key, files in students.items() if key.startswith(f"{kind}_")]
        for form in ("dynamic", "int8"):
            rows = [files[form] for files in seeds]
            size = max(row["bytes"] for row in rows)
            means = [spread([row[part] for row in rows]) for part in ("held_out", "test")]
            lost = statistics.mean(row["test"] for row in rows) - teacher["test"]
            title = kind.replace("_", ", ")
            cells = [title, form, f"{size:,}", *means, f"{lost:+.2f}", str(len(rows))]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", required=True, help="preset of KerasHub, a name or a folder")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("exports/imdb"))
    parser.add_argument("--length", type=int, default=192, help="word pieces of the teacher [192]")
    parser.add_argument("--student-length", type=int, default=192, help="[192]")
    parser.add_argument("--frozen", type=int, default=2, help="lower layers not fine-tuned [2]")
    parser.add_argument("--teacher-epochs", type=int, default=1)
    parser.add_argument("--epochs", type=int, help="of all students [4 and 8]")
    parser.add_argument("--reviews", type=int, help="training reviews, held-out ones too [all]")
    parser.add_argument("--held-out", type=int, default=2_000)
    parser.add_argument("--test", type=int, default=10_000, help="test reviews [10000]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kinds", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    settings = {k: v for k, v in vars(chosen).items() if k not in ("out", "seeds", "kinds")}
    check_settings(chosen.out, {**settings, "encoder": pathlib.Path(chosen.encoder).name})
    run, students = Run(chosen), {}
    teacher = run.teacher_accuracy()
    print(f"teacher: {teacher}", flush=True)
    for seed in chosen.seeds:
        for kind in chosen.kinds:
            for taught in (True, False):
                name = f"{kind}_{'taught' if taught else 'alone'}_{seed}"
                students[name] = once(
                    chosen.out / f"{name}.json",
                    lambda kind=kind, seed=seed, taught=taught: run.row(kind, seed, taught),
                )
    measured = {"teacher": teacher, "students": students}
    print(table_of(measured))
    write_results(chosen.out, table_of(measured), measured)


if __name__ == "__main__":
    main()
