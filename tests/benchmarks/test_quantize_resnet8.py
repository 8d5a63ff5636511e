import json
import pathlib

ROOT = pathlib.Path(__file__).parents[2]


def test_the_guide_quotes_the_kept_results(load_script):
    benchmark = load_script("benchmarks/quantize_resnet8.py")
    kept = json.loads((ROOT / "exports/reference/quantize_resnet8.json").read_text())
    guide = (ROOT / "docs/measured/quantization.md").read_text()
    assert benchmark.table_of(kept) in guide
    taught = next(row for row in kept if row["file"] == "int4, taught")
    assert taught["bytes"] <= 55_000 and taught["test"] >= 87.0
