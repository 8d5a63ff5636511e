"""Measure the composition of the package: modules, importers, floors, private names, lines.

python tools/house.py            the table
python tools/house.py --names    also every private name of another library, and where it is used
python tools/house.py --tests    also the time of the tests (runs them)
python tools/house.py OLD        the table of another checkout
"""

import argparse
import ast
import collections
import functools
import pathlib
import statistics
import subprocess
import sys
import time

# From the top floor down; `tests/test_import_directions.py` holds every import against it.
FLOORS = (
    "__main__", "cli", "demo", "planning", "zoo", "compression", "caching", "report", "export",
    "distilling", "measuring", "quantizing", "teachers", "litert", "models", "data", "losses",
    "datasets", "system", "_version",
)  # fmt: skip
# The public names of one folder whose code stands on a higher floor.
FACADES = ("keras_kd.teachers.cached",)
RUN = 6  # lines that make a duplicated run


@functools.cache
def trees(root):
    """Return the syntax tree of every module below `root`, by its dotted name."""
    files = sorted((root / "keras_kd").rglob("*.py"))
    return {
        ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): ast.parse(
            file.read_text(encoding="utf-8")
        )
        for file in files
    }


def imports(tree, modules, *, everywhere):
    """Return the modules that a module imports; `everywhere`: also inside its functions."""
    found = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in modules else node.module)
    return found & set(modules)


def circles(graph):
    """Return the groups of modules that import each other (Tarjan's components)."""
    index, low, stack, groups = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for node in graph:
        if node not in index:
            visit(node)
    return groups


def upward(graph):
    """Return the imports that point from a floor to one above it."""
    rank = {name: i for i, name in enumerate(FLOORS)}
    found = []
    for module, others in graph.items():
        for other in others:
            here, there = (name.split(".")[1] if "." in name else "" for name in (module, other))
            if module in FACADES:
                continue
            if rank.get(there, 99) < rank.get(here, -1):
                found.append((module, other))
    return found


def defined_names(tree):
    """Return the names that a module defines itself, as functions, classes or attributes."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                names.add(node.attr)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
    return names


@functools.cache
def private_names_of_keras():
    """Return the private attributes of Keras's classes that this package derives from."""
    import keras

    classes = (
        keras.Model, keras.Sequential, keras.layers.Layer, keras.layers.Wrapper, keras.losses.Loss,
        keras.callbacks.Callback, keras.optimizers.Optimizer, keras.metrics.Metric, keras.Variable,
    )  # fmt: skip
    built = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    built.compile("sgd", "mse")
    functional = keras.Model(built.inputs, built.outputs)
    names = {name for kind in classes for name in dir(kind)}
    for made in (built, functional, built.layers[0], built.optimizer):
        names |= set(dir(made)) | set(vars(made))
    return {name for name in names if is_private(name)}


def is_private(name):
    """Whether a name is private to its library, and not Python's own (named tuples have some)."""
    of_python = name.startswith("__") or name in ("_", "_asdict", "_fields", "_replace")
    return name.startswith("_") and not of_python


def private_uses(modules):
    """Return for every private name of another library the modules that use it."""
    ours = set().union(*(defined_names(tree) for tree in modules.values()))
    theirs = private_names_of_keras()
    uses = collections.defaultdict(set)
    for module, tree in modules.items():
        own = defined_names(tree)
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Attribute):
                of_self = getattr(node.value, "id", "") == "self"
                names = [] if of_self and node.attr in own else [node.attr]
            elif (
                isinstance(node, ast.Call)
                and getattr(node.func, "id", "") in ("getattr", "hasattr", "setattr")
                and len(node.args) > 1
                and isinstance(node.args[1], ast.Constant)
            ):
                names = [node.args[1].value]
            elif isinstance(node, ast.ClassDef) and node.bases:
                names = [part.name for part in node.body if isinstance(part, ast.FunctionDef)]
                names = [name for name in names if name in theirs]
            elif isinstance(node, ast.ImportFrom) and node.module:
                parts = node.module.split(".")
                if parts[0] != "keras_kd" and ("src" in parts or any(map(is_private, parts))):
                    uses[f"{node.module}.{node.names[0].name}"].add(module)
                if parts[0] not in ("keras_kd", "__future__"):
                    names = [alias.name for alias in node.names]
            for name in names:
                if is_private(name) and (name in theirs or name not in ours):
                    uses[name].add(module)
    return uses


def functions(tree):
    """Return the lengths of a module's functions, in lines."""
    return [
        node.end_lineno - node.lineno + 1
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]


def code_lines(file):
    """Return how many lines of a module are neither blank, nor comment, nor docstring."""
    text = file.read_text(encoding="utf-8")
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    inside = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            inside |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    numbered = enumerate(text.splitlines(), start=1)
    stripped = {number: line.strip() for number, line in numbered if number not in inside}
    return sum(bool(line) and not line.startswith("#") for line in stripped.values())


def duplicated_runs(root):
    """Return how many runs of `RUN` lines stand in more than one place."""
    places = collections.defaultdict(list)
    for file in sorted((root / "keras_kd").rglob("*.py")):
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        lines = [x for x in lines if len(x) > 2 and not x.startswith(("#", "import ", "from "))]
        for i in range(len(lines) - RUN + 1):
            places[tuple(lines[i : i + RUN])].append((file, i))
    repeated = {place for found in places.values() if len(found) > 1 for place in found}
    return sum((file, i - 1) not in repeated for file, i in repeated)


def measure(root):
    """Return the rows of the table."""
    modules = trees(root)
    everywhere = {name: imports(tree, modules, everywhere=True) for name, tree in modules.items()}
    at_once = {name: imports(tree, modules, everywhere=False) for name, tree in modules.items()}
    importers = collections.Counter(
        other for name, others in everywhere.items() for other in others if other != name
    )
    stubs = "\n".join(
        file.read_text(encoding="utf-8") for file in (root / "keras_kd").rglob("*.pyi")
    )
    packages = {
        name for name in modules if (root / name.replace(".", "/") / "__init__.py").exists()
    }
    single = [
        name
        for name in modules
        if importers[name] == 1
        and name not in packages
        and f"{name.rpartition('.')[2]} import" not in stubs
        and not name.startswith(("keras_kd.losses.", "keras_kd.cli.commands."))
    ]
    files = sorted((root / "keras_kd").rglob("*.py"))
    lines = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    lengths = sorted(length for tree in modules.values() for length in functions(tree))
    uses = private_uses(modules)
    root_files = [file for file in files if file.parent == root / "keras_kd"]
    return {
        "modules": len(modules) - len(packages),
        "files at the root": len(root_files),
        "modules with one importer (losses and commands aside)": len(single),
        "imports that point up": len(upward(everywhere)),
        "circles of imports": len(circles(at_once)),
        "private names of other libraries": len(uses),
        "files that use them": len(set().union(*uses.values())),
        "lines": sum(lines.values()),
        "of which code (no docstrings, comments, blank lines)": sum(map(code_lines, files)),
        "lines of the longest file": max(lines.values()),
        "lines of a function, 95th percentile": lengths[int(0.95 * len(lengths))],
        "lines of a function, median": int(statistics.median(lengths)),
        f"duplicated runs of {RUN} lines": duplicated_runs(root),
    }


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "root", nargs="?", type=pathlib.Path, default=pathlib.Path(__file__).parents[1]
    )
    parser.add_argument("--names", action="store_true")
    parser.add_argument("--tests", action="store_true")
    chosen = parser.parse_args()
    rows = measure(chosen.root)
    if chosen.tests:
        start = time.time()
        subprocess.run(["make", "test"], cwd=chosen.root, check=False)
        rows["seconds of the tests"] = round(time.time() - start)
    for name, value in rows.items():
        print(f"{name:55} {value:>7,}")
    if chosen.names:
        for name, users in sorted(private_uses(trees(chosen.root)).items()):
            print(
                f"{name:45} {', '.join(sorted(user.removeprefix('keras_kd.') for user in users))}"
            )


if __name__ == "__main__":
    sys.exit(main())
