"""What the demonstration trains, and how, for each data set."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Every choice of one demonstration run; an epoch is a pass over the training split.

    `compressed_seeds` says how many of the distilled students are pruned and quantized: the first
    ones.
    """

    dataset: str
    validation_examples: int
    shift: int
    flip: bool
    views: int
    batch_size: int
    teacher_widths: tuple[int, ...]
    teacher_blocks: tuple[int, ...]
    teacher_epochs: int
    teacher_learning_rate: float
    teacher_weight_decay: float
    student_widths: tuple[int, ...]
    student_blocks: tuple[int, ...]
    student_epochs: int
    student_learning_rate: float
    student_weight_decay: float
    temperature: float
    student_loss_weight: float
    sparsity: float
    prune_epochs: int
    prune_learning_rate: float
    quantize_epochs: int
    quantize_learning_rate: float
    compressed_seeds: int


RECIPES = {
    "digits": Recipe(
        dataset="digits",
        validation_examples=200,
        shift=1,
        flip=False,
        views=16,
        batch_size=64,
        teacher_widths=(32, 64),
        teacher_blocks=(1, 2),
        teacher_epochs=40,
        teacher_learning_rate=0.05,
        teacher_weight_decay=1e-2,
        student_widths=(8, 12),
        student_blocks=(1, 1),
        student_epochs=40,
        student_learning_rate=0.1,
        student_weight_decay=1e-3,
        temperature=4.0,
        student_loss_weight=0.1,
        sparsity=0.5,
        prune_epochs=20,
        prune_learning_rate=0.05,
        quantize_epochs=8,
        quantize_learning_rate=0.02,
        compressed_seeds=1,
    ),
    "fashion_mnist": Recipe(
        dataset="fashion_mnist",
        validation_examples=5000,
        shift=2,
        flip=True,
        views=8,
        batch_size=128,
        teacher_widths=(32, 64, 128, 256),
        teacher_blocks=(1, 2, 2, 1),
        teacher_epochs=18,
        teacher_learning_rate=0.1,
        teacher_weight_decay=5e-3,
        student_widths=(16, 24, 32),
        student_blocks=(1, 2, 1),
        student_epochs=18,
        student_learning_rate=0.1,
        student_weight_decay=1e-3,
        temperature=4.0,
        student_loss_weight=0.1,
        sparsity=0.3,
        prune_epochs=15,
        prune_learning_rate=0.1,
        quantize_epochs=20,
        quantize_learning_rate=0.05,
        compressed_seeds=1,
    ),
}
