import json
import pathlib

ROOT = pathlib.Path(__file__).parents[2]


def test_the_page_quotes_the_kept_results(load_script):
    benchmark = load_script("benchmarks/demo_seeds.py")
    kept = json.loads((ROOT / "exports/reference/demo_seeds.json").read_text())
    assert benchmark.table(kept) in (ROOT / "docs/measured/demo.md").read_text()
    assert [run["seeds"] for run in kept] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_a_row_has_means_and_gains_by_seed(load_script):
    benchmark = load_script("benchmarks/demo_seeds.py")
    accuracy = {"student_alone": [0.5, 0.6], "distilled": [0.8, 0.8]}
    accuracy |= {key: [1.0, 1.0] for key in benchmark.TITLES if key not in accuracy}
    row = benchmark.table([{"seeds": [4, 5], "accuracy": accuracy}]).splitlines()[-1]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[0] == "4, 5"
    assert cells[2:4] == ["55.00 ± 7.07", "80.00 ± 0.00"]
    assert cells[-2:] == ["25.0 ± 7.1", "+30.0, +20.0"]
