"""The source of the project as test_house.py reads it: files, imports, texts and calls."""

import ast
import io
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("jobs", "pipeline", "lm", "tokenizer")


class Source(NamedTuple):
    """A file, with its path below the root and its dotted name."""

    path: str
    module: str
    text: str
    tree: ast.Module


class Import(NamedTuple):
    """An import of a project module or of a name in one."""

    source: Source
    line: int
    target: str

    def __str__(self) -> str:
        return f"{self.source.path}:{self.line}: imports {self.target}"


@cache
def sources(*packages: str) -> tuple[Source, ...]:
    """The files of some packages."""
    folders = [ROOT / package for package in packages or PACKAGES]
    return tuple(_source(path) for folder in folders for path in sorted(folder.rglob("*.py")))


@cache
def _source(path: Path) -> Source:
    relative, text = path.relative_to(ROOT), path.read_text()
    module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
    return Source(str(relative), module, text, ast.parse(text))


@cache
def imports() -> tuple[Import, ...]:
    """All imports of all files, those in functions too."""
    found = []
    modules = {source.module for source in sources()}
    for source in sources():
        for node in ast.walk(source.tree):
            targets = []
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = module_of(source, node)
                full = [f"{base}.{alias.name}" for alias in node.names]
                # The public API of tokenizer/ is its top; lower rooms may not import it either.
                targets = [
                    name if name in modules or base == "tokenizer" else base for name in full
                ]
            found += [Import(source, node.lineno, target) for target in dict.fromkeys(targets)]
    return tuple(found)


def module_of(source: Source, node: ast.ImportFrom) -> str:
    """What a `from ... import` is from, with leading dots resolved."""
    if not node.level:
        return node.module or ""
    package = source.module.split(".")
    if not source.path.endswith("__init__.py"):
        package = package[:-1]
    parts = package[: len(package) - node.level + 1]
    return ".".join([*parts, *([node.module] if node.module else [])])


def within(module: str, package: str) -> bool:
    """Whether a module is this one or lies in it."""
    return module == package or module.startswith(f"{package}.")


def texts(source: Source) -> Iterator[tuple[int, str]]:
    """(line, text) of all strings, docstrings and comments."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


@cache
def variadic_functions() -> dict[str, int]:
    """{name: positional parameters before *args} of the functions that have *args."""
    return {
        node.name: len(node.args.posonlyargs + node.args.args)
        for source in sources()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.FunctionDef) and node.args.vararg
    }


@cache
def methods() -> dict[str, set[str]]:
    """{class: names of its methods}."""
    return {
        node.name: {child.name for child in node.body if isinstance(child, ast.FunctionDef)}
        for source in sources()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ClassDef)
    }


class Calls(ast.NodeVisitor):
    """Calls of the project's functions, classes and methods with too many positional values.

    Resolved by name, as far as that goes: imported names, those of the file itself, and methods of
    self, cls or a class. Values that *args takes do not count.
    """

    def __init__(self, source: Source, limit: int) -> None:
        self.source, self.limit = source, limit
        self.known: set[str] = set()
        self.classes: list[str] = []
        self.offenders: list[str] = []
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ImportFrom):
                if module_of(source, node).split(".")[0] in PACKAGES:
                    self.known |= {alias.asname or alias.name for alias in node.names}
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                self.known.add(node.name)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.classes.append(node.name)
        self.generic_visit(node)
        self.classes.pop()

    def visit_Call(self, node: ast.Call) -> None:
        name = ast.unparse(node.func)
        count = sum(not isinstance(value, ast.Starred) for value in node.args)
        count = min(count, variadic_functions().get(name.rpartition(".")[2], count))
        if count > self.limit and self.is_ours(node.func):
            self.offenders.append(
                f"{self.source.path}:{node.lineno}: {name}: {count} positional values"
            )
        self.generic_visit(node)

    def is_ours(self, function: ast.expr) -> bool:
        """Whether the callee is of the project."""
        if isinstance(function, ast.Name):
            return function.id in self.known or function.id == "cls"
        if not isinstance(function, ast.Attribute) or not isinstance(function.value, ast.Name):
            return False
        owner = function.value.id
        if owner in ("self", "cls"):
            return bool(self.classes) and function.attr in methods()[self.classes[-1]]
        return owner in self.known and function.attr in methods().get(owner, {function.attr})
