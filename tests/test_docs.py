import pathlib
import re

import keras_kd

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"


def documented():
    pages = (DOCS / "api").glob("*.md")
    return {
        name
        for page in pages
        for name in re.findall(r"^::: keras_kd\.([\w.]+)$", page.read_text(), re.M)
    }


def public_names():
    packages = {"losses", "teachers", "report", "datasets", "zoo"}
    names = set(keras_kd.__all__) - packages - {"__version__"}
    for package in packages:
        module = getattr(keras_kd, package)
        exported = getattr(module, "__all__", None) or [
            name
            for name, value in vars(module).items()
            if not name.startswith("_")
            and getattr(value, "__module__", "").startswith(f"keras_kd.{package}.")
        ]
        names |= {f"{package}.{name}" for name in exported}
    return names


def test_the_reference_has_every_public_name():
    assert public_names() - documented() == set()


def test_the_reference_has_no_other_names():
    assert documented() - public_names() == set()


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r"[\w/]+\.md$", (ROOT / "mkdocs.yml").read_text(), re.M))
    assert listed == {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}


def test_a_guide_has_at_most_1200_words():
    guides, measured = (ROOT / "mkdocs.yml").read_text().split("- Published and measured results:")
    pages = re.findall(r"guides/\w+\.md$", guides + measured.split("- Coming from:")[1], re.M)
    words = {page: len((DOCS / page).read_text().split()) for page in pages}
    assert len(words) > 20
    assert {page: count for page, count in words.items() if count > 1200} == {}


def test_the_site_is_built_strictly():
    (command,) = re.findall(r"mkdocs build.*", (ROOT / "Makefile").read_text())
    # mkdocs counts only the warnings that it shows: with --quiet none of them fails the build.
    assert "--strict" in command and "-q" not in command
