"""The flags of a job, read from its source and from what it uses of jobs/cli.

Running 14 jobs for their --help takes a minute; this takes a tenth of a second.
"""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

from ray_cluster import ROOT


@functools.cache
def functions(file: Path) -> dict[str, ast.AST]:
    """The functions and classes at the top of a file, by name."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    body = ast.parse(file.read_text()).body
    return {node.name: node for node in body if isinstance(node, kinds)}


@functools.cache
def imported(file: Path) -> dict[str, tuple[Path, str]]:
    """{name in this file: (file of jobs/cli, name in that file, or "" for the module)}."""
    found = {}
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("jobs.cli"):
            continue
        package = ROOT / node.module.replace(".", "/")
        for name in node.names:
            module = package / f"{name.name}.py" if package.is_dir() else package.with_suffix(".py")
            inner = "" if package.is_dir() else name.name
            found[name.asname or name.name] = (module, inner)
    return found


@functools.cache
def flags_of(job: Path) -> frozenset[str]:
    """The flags of a job: those its own functions add, and those of jobs/cli that they call."""
    flags, waiting, done = set(), [(job, name) for name in functions(job)], set()
    while waiting:
        file, name = waiting.pop()
        if (file, name) in done or not file.is_file():
            continue
        done.add((file, name))
        if name not in functions(file):  # a module may hand on what another defines
            waiting += [imported(file)[name]] if name in imported(file) else []
            continue
        node = functions(file)[name]
        flags |= set(added(node, file))
        for each in ast.walk(node):
            if isinstance(each, ast.Name):
                waiting.append(imported(file).get(each.id, (file, each.id)))
            elif isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name):
                module, inner = imported(file).get(each.value.id, (file, each.value.id))
                waiting += [] if inner else [(module, each.attr)]
    return frozenset(flags)


def added(node: ast.AST, file: Path) -> Iterator[str]:
    """The flags that calls of add_argument and the like name, in loops too."""
    for call in ast.walk(node):
        if adds(call):
            yield from (v.value for v in call.args if isinstance(v, ast.Constant) and is_flag(v))
    for loop in ast.walk(node):
        # for name, what in (("steps", ...), ...): parser.add_argument(f"--{name}", help=what)
        if not isinstance(loop, ast.For):
            continue
        calls = [call for call in ast.walk(loop) if adds(call, whole_name=True) and call.args]
        if all(isinstance(call.args[0], ast.Constant) for call in calls):
            continue
        for first in firsts(loop.iter, file):
            yield f"--{first.removeprefix('--').replace('_', '-')}"


def firsts(values: ast.expr, file: Path) -> list[str]:
    """What a loop's first variable is: of a tuple written out, or of a file's DICT.items()."""
    if isinstance(values, ast.Tuple | ast.List):
        each = [e.elts[0] if isinstance(e, ast.Tuple) else e for e in values.elts]
        return [one.value for one in each]
    (name,) = [node.id for node in ast.walk(values) if isinstance(node, ast.Name)]
    for node in ast.parse(file.read_text()).body:
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        if getattr(targets[0], "id", "") == name:
            return list(ast.literal_eval(node.value))
    raise AssertionError(f"{file} loops over flags that are not written out")


def adds(call: ast.AST, whole_name: bool = False) -> bool:
    """Whether it is a call of add_argument, or else of any function whose name begins with add."""
    if not isinstance(call, ast.Call):
        return False
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    return name == "add_argument" if whole_name else name.startswith(("add", "_add"))


def is_flag(constant: ast.Constant) -> bool:
    """Whether it is the name of a flag."""
    return bool(re.fullmatch(r"--[a-z][a-z0-9-]*", str(constant.value)))
