"""No page of the site, nor the README, shows code that no test runs or checks."""

import ast
import importlib.util
import pathlib
import re
import shlex

import pytest

from keras_kd.cli.commands import COMMANDS
from keras_kd.cli.recipe import read_recipe

ROOT = pathlib.Path(__file__).parents[2]
PAGES = {
    str(page.relative_to(ROOT)): page.read_text()
    for page in [
        *sorted((ROOT / "docs").rglob("*.md")),
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
    ]
}
# Pages whose Python is not run through `run_guide`, and what runs it.
RUN_ELSEWHERE = {
    "README.md": "tests/test_readme.py",
    "docs/guides/scale.md": "tests/distributed/test_guide.py",
}
# Blocks in other languages, and the test that compiles them, reads them or compares them with what
# is printed.
OTHERS = {
    ("CONTRIBUTING.md", "text"): "tests/test_import_directions.py",
    ("README.md", "text"): "tests/test_readme.py",
    ("docs/getting_started.md", "text"): "tests/guides/test_getting_started.py",
    ("docs/guides/check.md", "text"): "tests/guides/test_check.py",
    ("docs/guides/command_line.md", "toml"): "tests/guides/test_command_line.py",
    ("docs/guides/microcontrollers.md", "cpp"): "tests/guides/test_microcontrollers.py",
}
INCLUDED = re.compile(r'--8<-- "([^":]+)"\s*')


def blocks(text):
    """Return language and content of every fenced block, indented ones included."""
    found = re.findall(r"^( *)(`{3,}|~{3,})([^\n]*)\n(.*?)^\1\2 *$", text, re.S | re.M)
    assert 2 * len(found) == len(re.findall(r"^ *(?:`{3,}|~{3,})", text, re.M))
    return [(indent + info.strip(), content) for indent, _, info, content in found]


def own_blocks():
    """Return page, language and content of all blocks but those that show a file."""
    return [
        (page, language, content)
        for page, text in PAGES.items()
        for language, content in blocks(text)
        if not INCLUDED.fullmatch(content)
    ]


def pages_that_are_run():
    run = set()
    for path in (ROOT / "tests" / "guides").glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "run_guide":
                page = ROOT / "docs" / "guides" / ast.literal_eval(node.args[0])
                run.add(str(page.resolve().relative_to(ROOT)))
    return run


def test_python_is_run():
    for page, test in RUN_ELSEWHERE.items():
        text = (ROOT / test).read_text()
        assert pathlib.Path(page).name in text and "exec(compile(" in text
    shown = {page for page, language, _ in own_blocks() if language == "python"}
    assert shown == pages_that_are_run() | set(RUN_ELSEWHERE)


def test_other_languages_are_checked():
    shown = {(page, language) for page, language, _ in own_blocks()}
    others = {(page, language) for page, language in shown if language not in ("python", "bash")}
    assert others == set(OTHERS)
    for (page, language), test in OTHERS.items():
        text = (ROOT / test).read_text()
        assert pathlib.Path(page).name in text and f"```{language}" in text


def test_files_shown_are_tested():
    tests = "".join(path.read_text() for path in (ROOT / "tests" / "examples").glob("test_*.py"))
    for text in PAGES.values():
        for name in INCLUDED.findall("".join(content for _, content in blocks(text))):
            path = ROOT / name
            assert path.is_file()
            assert path.name in tests or path.parent.name in tests


def commands():
    """Return page and words of every command, in blocks and within sentences."""
    programs = r"(?:keras-kd|make|python|pip|npm)"
    for page, text in PAGES.items():
        lines = [
            line
            for language, content in blocks(text)
            if language == "bash"
            for line in content.replace("\\\n", " ").splitlines()
        ]
        prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.S | re.M)
        lines += re.findall(rf"`({programs} [^`]+)`", " ".join(prose.split()))
        for line in lines:
            line = re.sub(r"(^|\s)#.*", "", line)
            for part in re.split(r"&&|[()]|(?<= )>.*", line):
                if words := shlex.split(part):
                    yield page, words


def check_python(words, folder):
    if words[0] == "-m":
        module, words = words[1], words[2:]
        assert importlib.util.find_spec(module) is not None
        options = None
    else:
        script, words = folder / words[0], words[1:]
        if script.parent == ROOT:  # a file of the reader's own
            return
        options = script.read_text()
    for word in words:
        if word.startswith("--") and options is not None:
            assert f'"{word}"' in options
        elif "/" in word and not re.search("=|://|^exports/", word):
            assert (folder / word).exists()


def check_pip(words):
    extras = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1]
    assert words[0] == "install"
    for word in words[1:]:
        if match := re.fullmatch(r"(?:\.|keras-kd)\[(\w+)\]", word):
            assert f"\n{match[1]} = [" in extras
        elif word.endswith(".txt"):
            assert (ROOT / word).is_file()


@pytest.mark.parametrize("page", sorted(PAGES))
def test_commands_can_be_given(page, parse_command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.toml").write_text("")  # --recipe reads it
    folder = ROOT
    for where, (program, *words) in commands():
        if where != page:
            continue
        said = (program, *words)
        if program == "cd":
            folder = ROOT / words[0]
            assert folder.is_dir(), said
            continue
        if program == "keras-kd" and words[1:]:
            parse_command(*words)
        elif program == "keras-kd":
            assert words[0] in COMMANDS, said
        elif program == "make":
            assert f"\n{words[0]}:" in (ROOT / "Makefile").read_text(), said
        elif program == "python":
            check_python(words, ROOT)
        elif program == "pip":
            check_pip(words)
        elif program == "adb":  # of Android's developer tools
            assert words[0] in ("push", "shell"), said
        elif program == "npm":
            assert (folder / "package.json").is_file(), said
        else:
            assert (ROOT / program).is_file(), said


def test_recipes_are_read(tmp_path):
    recipes = [content for _, language, content in own_blocks() if language == "toml"]
    assert recipes
    for recipe in recipes:
        (tmp_path / "recipe.toml").write_text(recipe)
        read_recipe(str(tmp_path / "recipe.toml"), COMMANDS.values())
