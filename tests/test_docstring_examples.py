"""The examples in the docstrings of the reference run, on small models, one epoch each."""

import inspect
import pathlib
import re
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd

API = pathlib.Path(__file__).parents[1] / "docs" / "api"


def examples():
    """Return the blocks of code of every documented name that has some."""
    found = {}
    for page in sorted(API.glob("*.md")):
        for name in re.findall(r"^::: keras_kd\.([\w.]+)$", page.read_text(), re.M):
            value = kd
            for part in name.split("."):
                value = getattr(value, part)
            text = inspect.getdoc(value) or ""
            assert ">>>" not in text, f"{name}: write the example as a fenced block"
            if blocks := re.findall(r"^```python\n(.*?)^```", text, re.S | re.M):
                found[name] = blocks
    return found


EXAMPLES = examples()


def network(name, blocks, classes=10):
    image = keras.Input((8, 8, 1), name="image")
    x = image
    for block in range(1, blocks + 1):
        conv = "stem_conv" if block == 1 else f"block{block}_conv"
        x = keras.layers.Conv2D(4, 3, padding="same", use_bias=False, name=conv)(x)
        x = keras.layers.BatchNormalization()(x)
        x = keras.layers.ReLU(name=f"block{block}_out")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, keras.layers.Dense(classes, name="logits")(x), name=name)


def of_pixels():
    image = keras.Input((8, 8, 1))
    return keras.Model(image, keras.layers.Conv2D(3, 1)(image))


def with_two_outputs():
    image = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(image)
    outputs = {"kind": keras.layers.Dense(10)(x), "size": keras.layers.Dense(1)(x)}
    return keras.Model(image, outputs)


def pyramid(width):
    x = image = keras.Input((8, 8, 1))
    for _ in range(3):
        x = keras.layers.Conv2D(width, 3, strides=2 if x is not image else 1, padding="same")(x)
    pooled = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(10)(pooled))


def transformer(layers):
    keras_hub = pytest.importorskip("keras_hub")
    backbone = keras_hub.models.BertBackbone(20, layers, 2, 24, 8, max_sequence_length=8)
    return keras_hub.models.BertTextClassifier(backbone, num_classes=3, preprocessor=None)


def writer(layers):
    keras_hub = pytest.importorskip("keras_hub")
    words = {word: i for i, word in enumerate(["<|endoftext|>", "a", "b", "c", "ab"])}
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(
        keras_hub.tokenizers.GPT2Tokenizer(words, ["a b"]), sequence_length=8
    )
    backbone = keras_hub.models.GPT2Backbone(5, layers, 2, 4, 8, max_sequence_length=8)
    return keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=preprocessor)


class World:
    """What the examples take for granted: data, models and files."""

    def __init__(self, folder):
        rng = np.random.default_rng(0)
        self.images = rng.random((64, 8, 8, 1), np.float32)
        self.labels = rng.integers(0, 10, 64)
        self.folder = folder
        teacher, student = self.teacher(), self.student()
        for name in ("a", "b"):
            teacher.save(folder / f"{name}.keras")
        made = {"verbose": False, "class_names": [str(digit) for digit in range(10)]}
        kd.export_tflite(student, folder / "exports" / "student.tflite", **made)
        kd.export_tflite(teacher, folder / "exports" / "teacher.tflite", **made)
        shutil.copy(
            folder / "exports" / "teacher.tflite", folder / "exports" / "teacher_int8.tflite"
        )
        data = (self.images, self.labels)
        self.files = [
            kd.evaluate_tflite(folder / "exports" / f"{name}.tflite", data, model, runs=2)
            for name, model in (("teacher", teacher), ("student", student))
        ]
        rows = [
            kd.report.model_result("teacher", "Teacher", teacher, self.files[0]),
            kd.report.model_result("int8", "Student", student, self.files[1]),
        ]
        self.result = kd.report.make_result("Digits", rows)
        for name in ("digits", "a", "b"):
            kd.report.write_report(self.result, folder / "exports" / name)

    def teacher(self):
        return network("teacher", 4)

    def student(self):
        return network("student", 2)

    def distiller(self, teacher, student):
        distiller = kd.Distiller(teacher, student, kd.losses.KLDivergence(4.0))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile("adam", loss=loss, metrics=["accuracy"])
        return distiller

    def names(self):
        """Return what an example finds defined."""
        teacher, student = self.teacher(), self.student()
        logits = np.random.default_rng(1).normal(size=(2, 64, 10)).astype("float32")
        data = tf.data.Dataset.from_tensor_slices((self.images, self.labels)).batch(32)

        def fit(teacher, student):
            return self.distiller(teacher, student).fit(data, verbose=0)

        return {
            "keras": keras, "tf": tf, "kd": kd, "keras_kd": kd,
            "train": data, "validation": data, "test": data,
            "images": self.images, "x": self.images, "labels": self.labels, "y": self.labels,
            "teacher": teacher, "student": student, "model": student,
            "assistant": network("assistant", 3), "make_student": self.student, "fit": fit,
            "small_network": self.student, "large_network": self.teacher,
            "distiller": self.distiller(teacher, student),
            "teacher_logits": tf.constant(logits[0]), "student_logits": tf.constant(logits[1]),
            "paths": ["a.keras", "b.keras"], "path": "exports/teacher.tflite",
            "teacher_file": self.files[0], "student_file": self.files[1], "result": self.result,
            "names": [str(digit) for digit in range(10)],
        }  # fmt: skip

    def of(self, name, number):
        """Return what is defined otherwise for one block of one name."""
        rng = np.random.default_rng(2)
        if name == "losses.BinaryKLDivergence":
            return {"y": rng.integers(0, 2, (64, 10)).astype("float32")}
        if name == "losses.BoundedRegression" and number == 0:
            return {"y": rng.normal(size=(64, 10)).astype("float32")}
        if name == "losses.BoundedRegression":
            return {"teacher": with_two_outputs(), "student": with_two_outputs()}
        if name == "losses.KLDivergence" and number == 2:
            pixels = rng.integers(0, 3, (64, 8, 8))
            models = {"teacher": of_pixels(), "student": of_pixels()}
            return {**models, "class_of_each_pixel": pixels}
        if name == "losses.KLDivergence" and number == 3:
            rare = self.distiller(network("teacher", 1, 2), network("student", 1, 2))
            return {"distiller": rare, "labels": rng.integers(0, 2, 64)}
        if name == "Distiller" and number == 1:
            image = keras.Input((224, 224, 1))
            pooled = keras.layers.GlobalAveragePooling2D()(image)
            teacher = keras.Model(image, keras.layers.Dense(20)(pooled))
            return {"teacher": teacher, "student": network("student", 1, 3)}
        if name == "export_tflite":
            return {"student": network("student", 2, 2), "train": self.images}
        if name in ("LowRank", "compress_to_size"):  # where there is something to save
            image = keras.Input((8, 8, 1))
            hidden = keras.layers.Dense(32, activation="relu")(keras.layers.Flatten()(image))
            student = keras.Model(image, keras.layers.Dense(10)(hidden))
            kernel = np.outer(rng.normal(size=64), rng.normal(size=32))
            student.layers[2].kernel.assign(kernel)
            return {"distiller": self.distiller(self.teacher(), student)}
        if name == "pair_levels":
            return {"teacher": pyramid(4), "student": pyramid(3)}
        if name in ("transformer_hints", "losses.AttentionRelation", "losses.AttentionScores"):
            return {"teacher": transformer(4), "student": transformer(2)}
        if name == "student_from_layers":
            return {"teacher": transformer(6)}
        if name == "OnPolicyDistiller":
            return {"teacher": writer(2), "student": writer(1), "texts": ["ab", "cabcab"] * 8}
        if name == "losses.top_k_logits":
            tokens = rng.integers(0, 9, (4, 5))
            embed = keras.Sequential([keras.layers.Embedding(9, 64)])
            return {"tokens": tokens, "teacher": embed, "student": embed}
        return {}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    keras.utils.set_random_seed(0)
    return World(tmp_path_factory.mktemp("world"))


def test_most_names_have_an_example():
    assert len(EXAMPLES) > 50


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs(name, world, tmp_path, monkeypatch):
    shutil.copytree(world.folder, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    defined = world.names()
    for number, block in enumerate(EXAMPLES[name]):
        defined |= world.of(name, number)
        block = re.sub(r"\bepochs=\d+", "epochs=1", block)
        block = block.replace('budget="2h"', "trials=2")
        exec(compile(block, f"{name}, block {number}", "exec"), defined)
