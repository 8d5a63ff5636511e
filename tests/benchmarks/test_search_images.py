import pytest


@pytest.fixture(scope="module")
def benchmark(load_script):
    return load_script("benchmarks/search_images.py")


def test_the_table_sets_the_front_beside_the_hand_made_files(benchmark):
    front = [
        {"made": "small", "epochs": 3, "bytes": 20_000, "validation": 0.92, "test": 0.915},
        {"made": "large", "epochs": 9, "bytes": 50_000, "validation": 0.94, "test": 0.935},
    ]
    others = [("by hand: A", 59_000, [0.93, 0.94]), ("by hand: B", 30_000, [0.92])]
    rows = benchmark.table(front, others).splitlines()[2:]
    assert rows == [
        "| small | 3 | 20,000 | 92.00 | 91.50 |",
        "| **by hand: B** (none as good) |  | 30,000 |  | 92.00 |",
        "| large | 9 | 50,000 | 94.00 | 93.50 |",
        "| **by hand: A** (as good from 50,000 bytes on) |  | 59,000 |  | 93.50 ± 0.71 |",
    ]


def test_the_families_of_students_hold_the_hand_made_ones(benchmark):
    assert benchmark.fashion_student(16, 2).count_params() == 42_426
    assert [size for _, size, _ in benchmark.hand_made("fashion_mnist")] == [59_440, 59_560]
    assert [size for _, size, _ in benchmark.hand_made("cifar10")] == [97_056, 46_576]
