from __future__ import annotations

import math

import pytest


def make_file(path, size, zipped, median, operators, agreement=1.0):
    return {
        "path": path,
        "bytes": size,
        "zipped_bytes": zipped,
        "latency_ms": median,
        "latency_p90_ms": 1.2 * median,
        "agreement": agreement,
        "operators": operators,
    }


def make_model(key, title, parameters, nonzero, accuracies, file, **entries):
    return {
        "key": key,
        "title": title,
        "description": f"{title}, made up for a test.",
        "parameters": parameters,
        "nonzero_parameters": nonzero,
        "seeds": {str(seed): {"accuracy": value} for seed, value in enumerate(accuracies)},
        "accuracy_of": "keras model" if file is None else "file",
        "file": file,
        **entries,
    }


def make_classes(right):
    """Three classes of 100 samples; what is wrong is taken for the next class."""
    confusion = [[0] * 3 for _ in range(3)]
    for i, count in enumerate(right):
        confusion[i][i] = count
        confusion[i][(i + 1) % 3] = 100 - count
    columns = [sum(row[i] for row in confusion) for i in range(3)]
    return {
        "samples": 300,
        "confusion": confusion,
        "per_class": [
            {
                "label": i,
                "samples": 100,
                "accuracy": confusion[i][i] / 100,
                "precision": confusion[i][i] / columns[i],
            }
            for i in range(3)
        ],
    }


def make_calibration(error):
    bins = [
        {"low": i / 4, "high": (i + 1) / 4, "samples": 0, "confidence": None, "accuracy": None}
        for i in range(4)
    ]
    bins[2] |= {"samples": 600, "confidence": 0.6, "accuracy": 0.6 - error}
    bins[3] |= {"samples": 2400, "confidence": 0.9, "accuracy": 0.9 - error}
    return {"expected_calibration_error": error, "bins": bins}


def make_layer(i, kind):
    return {
        "name": f"block{i}_{kind}",
        "class": kind,
        "parameters": 0 if kind == "ReLU" else 1000 * (i + 1),
        "sparsity": None if kind == "ReLU" else 0.1 * i,
        "bits": None if kind == "ReLU" else 8,
        "bytes": 0 if kind == "ReLU" else 1100 * (i + 1),
        "done": [] if kind == "ReLU" else ["pruned", "quantization-aware"],
        "not_done": [],
    }


def make_stage(name, stage, epochs, accuracy, drop, nonzero):
    return {
        "name": name,
        "stage": stage,
        "outcome": "done" if stage else "before",
        "epochs": epochs,
        "metrics": {"loss": 0.3, "accuracy": accuracy},
        "metric": "accuracy",
        "drop": drop,
        "parameters": 48_000,
        "nonzero_parameters": nonzero,
        "sparsity": 1 - nonzero / 48_000,
        "seconds": 12.5,
        "config": {"epochs": epochs},
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
        "classes": ["shirt", "coat", "bag"],
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
                **make_classes([98, 95, 89]),
                calibration=make_calibration(0.03),
                curves=[make_curve("Teacher", "teacher", 0, 12, 0.94)],
            ),
            make_model(
                "student_alone",
                "Student alone",
                48_000,
                48_000,
                [0.918, 0.920, 0.922],
                make_file("student_alone.tflite", 200_000, 182_000, 0.62, floats),
                curves=[
                    make_curve("Student alone", "student_alone", seed, 20, 0.91)
                    for seed in range(3)
                ],
            ),
            make_model(
                "distilled",
                "Distilled student",
                48_000,
                48_000,
                [0.930, 0.932, 0.934],
                make_file("distilled.tflite", 200_000, 183_000, 0.61, floats),
                curves=[
                    make_curve("Distilled student", "distilled", seed, 20, 0.92)
                    for seed in range(3)
                ],
            ),
            make_model("pruned", "Pruned", 48_000, 24_400, [0.929, 0.931, 0.933], None),
            make_model(
                "int8",
                "Pruned and int8",
                48_000,
                24_400,
                [0.932, 0.933, 0.934],
                make_file("int8.tflite", 50_000, 31_000, 0.31, quantized, agreement=0.993),
                **make_classes([97, 95, 88]),
                calibration=make_calibration(0.07),
                layers=[make_layer(i, kind) for i in range(6) for kind in ("Conv2D", "ReLU")],
                other_bytes=50_000 - 23_100,
                stages=[
                    make_stage("student", "", 0, 0.93, 0.0, 48_000),
                    make_stage("prune", "Prune", 4, 0.925, 0.5, 24_400),
                ],
            ),
        ],
        "notes": ["Made up for a test."],
    }
