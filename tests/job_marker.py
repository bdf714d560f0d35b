"""Which tests get the marker `job`: those that run a program, which `make check` leaves out.

A test runs a program if it, a fixture of it or a function of tests/ that one of them calls names
`subprocess` or `shared_cluster`.
"""

import types

import pytest

PROCESSES = {"subprocess", "shared_cluster"}


def runs_a_job(item: pytest.Item) -> bool:
    """Whether a test, or one of its fixtures, runs a program."""
    definitions = item._fixtureinfo.name2fixturedefs.values()
    fixtures = [fixture.func for group in definitions for fixture in group]
    return any(map(_starts_process, [item.function, *fixtures]))


def _starts_process(function: object, seen: set[object] | None = None) -> bool:
    seen = set() if seen is None else seen
    function = getattr(function, "__wrapped__", function)
    if isinstance(function, type):
        methods = [part for part in vars(function).values() if isinstance(part, types.FunctionType)]
        return any(_starts_process(method, seen) for method in methods)
    if not isinstance(function, types.FunctionType) or function in seen:
        return False
    seen.add(function)
    names = _names(function.__code__)
    if names & PROCESSES:
        return True
    called = (function.__globals__.get(name) for name in names)
    return any(_starts_process(part, seen) for part in called if _is_of_tests(part))


def _names(code: types.CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _is_of_tests(part: object) -> bool:
    module = getattr(part, "__module__", "") or ""
    return not module.startswith(("torch", "numpy", "tokenizer.", "pipeline.", "lm.", "jobs."))
