from __future__ import annotations

import math

import pytest


def make_file(path, size, zipped, median, operators, agreement=1.0):
    return {
        "path": path,
        "bytes": size,
        "zipped_bytes": zipped,
        "latency_ms_median": median,
        "latency_ms_p90": 1.2 * median,
        "agreement": agreement,
        "operators": operators,
    }


def make_model(key, title, parameters, nonzero, accuracies, file):
    return {
        "key": key,
        "title": title,
        "description": f"{title}, made up for a test.",
        "parameters": parameters,
        "nonzero_parameters": nonzero,
        "seeds": {str(seed): {"accuracy": value} for seed, value in enumerate(accuracies)},
        "accuracy_of": "keras model" if file is None else "file",
        "file": file,
    }


def make_curve(title, stage, seed, epochs, final):
    def towards(end, speed):
        return [end - (end - 0.4) * math.exp(-speed * epoch) for epoch in range(1, epochs + 1)]

    accuracy = towards(final + 0.03 + 0.003 * seed, 0.5)
    losses = [2.3 * math.exp(-0.4 * epoch) + 0.1 for epoch in range(1, epochs + 1)]
    return {
        "title": title,
        "stage": stage,
        "seed": seed,
        "epochs": list(range(1, epochs + 1)),
        "series": {
            "accuracy": accuracy,
            "val_accuracy": towards(final + 0.003 * seed, 0.6),
            "loss": losses,
            "val_loss": [loss * 1.15 + 0.05 for loss in losses],
            "learning_rate": [1e-3] * epochs,
        },
    }


@pytest.fixture
def result():
    floats = {"CONV_2D": 5, "DEPTHWISE_CONV_2D": 4, "FULLY_CONNECTED": 1, "MEAN": 1}
    quantized = {**floats, "QUANTIZE": 1, "DEQUANTIZE": 1}
    return {
        "title": "Fashion-MNIST: a teacher, its student, and what became of it",
        "dataset": "fashion_mnist",
        "classes": [f"class {i}" for i in range(10)],
        "command": "keras-kd demo --dataset fashion_mnist --out exports/reference",
        "created": "2026-11-21T10:30:00+00:00",
        "versions": {"keras": "3.15.1", "tensorflow": "2.21.0"},
        "seeds": [0, 1, 2],
        "environment": {"cores": 2, "processor": "a processor of a test"},
        "models": [
            make_model(
                "teacher",
                "Teacher",
                1_250_000,
                1_250_000,
                [0.94],
                make_file("teacher.tflite", 5_000_000, 4_600_000, 12.0, floats),
            ),
            make_model(
                "student_alone",
                "Student alone",
                48_000,
                48_000,
                [0.918, 0.920, 0.922],
                make_file("student_alone.tflite", 200_000, 182_000, 0.62, floats),
            ),
            make_model(
                "distilled",
                "Distilled student",
                48_000,
                48_000,
                [0.930, 0.932, 0.934],
                make_file("distilled.tflite", 200_000, 183_000, 0.61, floats),
            ),
            make_model("pruned", "Pruned", 48_000, 24_400, [0.929, 0.931, 0.933], None),
            make_model(
                "int8",
                "Pruned and int8",
                48_000,
                24_400,
                [0.932, 0.933, 0.934],
                make_file("int8.tflite", 50_000, 31_000, 0.31, quantized, agreement=0.993),
            ),
        ],
        "curves": [make_curve("Teacher", "teacher", 0, 12, 0.94)]
        + [make_curve("Student alone", "student_alone", seed, 20, 0.91) for seed in range(3)]
        + [make_curve("Distilled student", "distilled", seed, 20, 0.92) for seed in range(3)],
        "layers": [
            {
                "name": f"block{i}_{kind}",
                "class": kind,
                "parameters": 1000 * (i + 1),
                "sparsity": None if kind == "ReLU" else 0.1 * i,
                "bits": 8,
                "what": "pruned, quantization-aware",
            }
            for i in range(6)
            for kind in ("Conv2D", "ReLU")
        ],
        "layers_of": "int8",
        "notes": ["Made up for a test."],
    }
