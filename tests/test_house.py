"""The structure of the project: who imports whom, names, calls and sizes.

All but one test read the source with ast and import nothing. A failure lists the offenders as
file:line.
"""

import ast
import re
import subprocess
import sys
from collections import defaultdict

from source_code import PACKAGES, ROOT, Calls, Source, imports, sources, texts, within

# (importer, imported, why): modules or packages, with all that is in them.
FORBIDDEN = [
    ("tokenizer", ("pipeline", "lm", "jobs"), "imports go down only"),
    ("lm", ("jobs",), "imports go down only"),
    ("pipeline", ("jobs",), "imports go down only"),
    ("lm", ("pipeline",), "the token shard is their whole contract"),
    ("pipeline", ("lm",), "the token shard is their whole contract"),
    ("tokenizer.errors", ("tokenizer",), "errors are at the bottom"),
    (
        "tokenizer.config",
        ("tokenizer.encoder", "tokenizer.codec", "tokenizer.storage", "tokenizer.training"),
        "shapes are at the bottom",
    ),
    (
        "tokenizer.audio",
        ("tokenizer.encoder", "tokenizer.codec", "tokenizer.storage", "tokenizer.training"),
        "audio is at the bottom",
    ),
    *(
        (f"tokenizer.{room}", ("tokenizer.tokenizer", "tokenizer.stream"), "these are at the top")
        for room in ("config", "audio", "storage", "training", "encoder", "codec")
    ),
    ("tokenizer.encoder", ("tokenizer.codec",), "the codec reads the encoder's features"),
    ("pipeline.settings", ("pipeline",), "settings are at the bottom"),
    ("pipeline.scores", ("pipeline", "ray"), "models of others need neither Ray nor shards"),
    *(
        (
            f"pipeline.{room}",
            ("pipeline.tokenize", "pipeline.training", "pipeline.evaluation", "pipeline.synthesis"),
            "jobs are built on it",
        )
        for room in ("cluster", "shards")
    ),
]
# The only module outside pipeline.synthesis that imports it.
SYNTHESIS_JOB = "jobs.synthesize"
# Arguments of other programs, which these files start: flite and festival.
FLAGS_OF_OTHERS = {"pipeline/synthesis/synthesizers.py": {"--setf", "--batch"}}
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")

MOST_POSITIONAL = 3
MOST_LINES, MOST_JOB_LINES, MOST_FILES = 300, 119, 14
# For `python -c`: prints which of the given modules the import of a package has loaded.
LOADED = "import sys, importlib; importlib.import_module(sys.argv[1]); print(*sys.modules)"


def listed(offenders: list[str]) -> str:
    """A message: one offender a line."""
    return "\n" + "\n".join(offenders)


def test_imports_go_down_only():
    offenders = []
    for importer, targets, why in FORBIDDEN:
        for found in imports():
            if within(found.source.module, importer) and not within(found.target, importer):
                offenders += [f"{found} ({why})" for name in targets if within(found.target, name)]
    assert not offenders, listed(offenders)


def test_lower_rooms_of_tokenizer_do_not_import_its_public_names():
    rooms = {source.module.split(".")[1] for source in sources("tokenizer") if "." in source.module}
    offenders = [
        str(found)
        for found in imports()
        if found.target.startswith("tokenizer.")
        and found.target.split(".")[1] not in rooms
        and found.source.module.startswith("tokenizer.")
    ]
    assert not offenders, listed(offenders)


def test_only_its_job_imports_synthesis():
    offenders = [
        str(found)
        for found in imports()
        if within(found.target, "pipeline.synthesis")
        and not within(found.source.module, "pipeline.synthesis")
        and found.source.module != SYNTHESIS_JOB
    ]
    assert not offenders, listed(offenders)


def job_files() -> list[Source]:
    """Files of jobs/ itself: one a job."""
    return [source for source in sources("jobs") if source.path.count("/") == 1 and is_job(source)]


def is_job(source: Source) -> bool:
    return not source.path.endswith("__init__.py")


def test_no_job_is_imported():
    jobs = {source.module for source in job_files()}
    offenders = [str(found) for found in imports() if found.target in jobs]
    assert not offenders, listed(offenders)


def test_libraries_know_no_flags():
    offenders = [
        f"{source.path}:{line}: {flag}"
        for source in sources("pipeline", "lm", "tokenizer")
        for line, text in texts(source)
        for flag in FLAG.findall(text)
        if flag not in FLAGS_OF_OTHERS.get(source.path, ())
    ]
    assert not offenders, listed(offenders)


def test_lm_and_tokenizer_import_no_ray():
    offenders = [
        str(found)
        for found in imports()
        if found.source.module.split(".")[0] in ("lm", "tokenizer") and within(found.target, "ray")
    ]
    assert not offenders, listed(offenders)


def loaded(package: str) -> set[str]:
    """Top-level modules in a fresh process that has imported a package."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED, package], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_import_tokenizer_is_light():
    assert not loaded("tokenizer") & {"ray", "faiss", "transformers", "torch"}


def test_import_lm_leaves_out_ray_and_faiss():
    assert not loaded("lm") & {"ray", "faiss", "pipeline"}


def test_a_shard_task_imports_no_torch():
    """Nor does the file of the actor, which Ray imports in whatever is given a handle of it."""
    for module in ("pipeline.tokenize.shard_task", "pipeline.cluster.encoder_actor"):
        assert "torch" not in loaded(module)


def test_no_two_classes_share_a_name():
    places = defaultdict(list)
    for source in sources():
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ClassDef):
                places[node.name.lstrip("_")].append(f"{source.path}:{node.lineno}: {node.name}")
    offenders = [place for same in places.values() if len(same) > 1 for place in same]
    assert not offenders, listed(offenders)


def test_settings_and_configs_are_frozen_and_keyword_only():
    offenders = []
    for source in sources():
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.ClassDef) or not node.name.endswith(("Settings", "Config")):
                continue
            for decorator in node.decorator_list:
                if "dataclass" not in ast.unparse(decorator):
                    continue
                keywords = decorator.keywords if isinstance(decorator, ast.Call) else []
                on = {k.arg for k in keywords if ast.unparse(k.value) == "True"}
                if not on >= {"frozen", "kw_only"}:
                    offenders.append(f"{source.path}:{node.lineno}: {node.name}")
    assert not offenders, listed(offenders)


def test_calls_pass_at_most_three_positional_values():
    offenders = []
    for source in sources():
        calls = Calls(source, MOST_POSITIONAL)
        calls.visit(source.tree)
        offenders += calls.offenders
    assert not offenders, listed(offenders)


def test_files_and_folders_are_small():
    offenders, folders = [], defaultdict(int)
    files = [path for name in (*PACKAGES, "tests") for path in (ROOT / name).rglob("*.py")]
    for path in files:
        relative, lines = path.relative_to(ROOT), len(path.read_text().splitlines())
        if lines > MOST_LINES:
            offenders.append(f"{relative}:{lines}: over {MOST_LINES} lines")
        folders[str(relative.parent)] += path.name != "__init__.py"
    for source in job_files():
        lines = len(source.text.splitlines())
        if lines > MOST_JOB_LINES:
            offenders.append(f"{source.path}:{lines}: a job over {MOST_JOB_LINES} lines")
    offenders += [
        f"{folder}: {count} files, over {MOST_FILES}"
        for folder, count in folders.items()
        if count > MOST_FILES and folder != "jobs"  # a file a command, as many as there are
    ]
    assert not offenders, listed(offenders)


def test_a_job_says_what_it_does_and_puts_the_root_first():
    """Run as a script, a job's own folder is first on sys.path: jobs/tokenize.py would be found
    there in place of the standard library's module."""
    offenders = []
    for source in job_files():
        first = (ast.get_docstring(source.tree) or "").partition("\n")[0]
        if not (first[:1].isupper() and first.endswith(".")):
            offenders.append(f"{source.path}:1: its docstring does not start with a sentence")
        body = source.tree.body
        replaced = [
            place
            for place, node in enumerate(body)
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "sys.path[0]"
        ]
        before = body[: replaced[0]] if replaced else body
        # Modules in C cannot be shadowed, and import nothing.
        harmless = {"from pathlib import Path", *(f"import {n}" for n in sys.builtin_module_names)}
        early = [
            node
            for node in before
            if isinstance(node, ast.Import | ast.ImportFrom) and ast.unparse(node) not in harmless
        ]
        if not replaced or early:
            line = early[0].lineno if early else 1
            offenders.append(f"{source.path}:{line}: sys.path[0] is to be replaced before this")
    assert not offenders, listed(offenders)
