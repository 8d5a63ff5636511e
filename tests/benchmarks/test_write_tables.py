import pytest


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("benchmarks/write_tables.py")


def test_the_pages_hold_the_tables_of_the_kept_results(script):
    written = set()
    for page in script.PAGES:
        text = page.read_text()
        assert script.with_tables(text) == text, page.name
        written |= {found[2] for found in script.MEASURED.finditer(text)}
    assert set(script.TABLES) <= written


def test_other_tables_and_text_stay(script, monkeypatch, tmp_path):
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.setattr(script, "TABLES", {"kept.json": lambda kept: f"| {kept} |"})
    (tmp_path / "kept.json").write_text("3")
    text = "A\n<!-- measured: {} -->\n{}\n<!-- /measured -->\nB\n"
    ours, other = text.format("kept.json", "old"), text.format("other.json", "old")
    assert script.with_tables(ours + other) == text.format("kept.json", "\n| 3 |\n") + other
