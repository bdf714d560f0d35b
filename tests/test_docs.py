"""The documentation is held to the code: reasons, jobs, flags, files, links, and what it runs."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
from conftest import ROOT
from job_flags import flags_of
from tars import waves

from jobs.cli.evaluation.tokens import TOKEN_MEANINGS
from lm.config import PRESETS, LMConfig
from lm.files import save_lm
from lm.model import SpeechLM
from pipeline.shards import samples
from pipeline.shards.report import REASONS
from pipeline.tokenize import unit_lines
from pipeline.tokenize.unit_lines import IMPORT_REASONS
from tokenizer.audio import reasons
from tokenizer.storage.fetch import PRETRAINED
from tokenizer.storage.token_shards import TokenShardWriter
from tokenizer.storage.tokenizer_files import TokenizerFiles

README = ROOT / "README.md"
PAGES = [README, *sorted(ROOT.glob("docs/*.md")), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
CARDS = sorted(ROOT.glob("tokenizer/pretrained/*/README.md"))
JOBS = sorted(p for p in ROOT.glob("jobs/*.py") if p.name != "__init__.py")
BENCHED = (
    *("driver", "encode", "feed", "gpu", "ingest", "kmeans", "lm", "memory", "published"),
    *("serve", "shared_cpu", "stream"),
)
BENCHES = [ROOT / f"jobs/bench/{name}.py" for name in BENCHED]
# What the docs announce and is not there yet.
ANNOUNCED: set[str] = set()
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)

pages = pytest.mark.parametrize("page", [*PAGES, *CARDS], ids=lambda p: str(p.relative_to(ROOT)))


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return FENCE.sub("", page.read_text())


def spans(page: Path) -> list[str]:
    """The `code` in a page's prose, each on one line."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page))]


def rows(text: str) -> list[list[str]]:
    """The cells of all tables' rows."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def anchor(title: str) -> str:
    """What GitHub makes of a title for a link to it."""
    kept = re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", title).lower())
    return kept.strip().replace(" ", "-")


def test_the_readme_is_a_front_page():
    assert len(README.read_text().splitlines()) <= 180


def texts_of(*modules: ModuleType) -> set[str]:
    """The constants of modules that are text: reasons."""
    constants = [item for module in modules for item in vars(module).items()]
    return {text for name, text in constants if name.isupper() and isinstance(text, str)}


def test_the_docs_list_the_reasons():
    """Each reason of a rejection with its meaning, and no other."""
    text = (ROOT / "docs/formats.md").read_text()
    tables = re.split(r"\n(?!\|)", text[text.index("## Reasons of rejection") :])
    found = [rows(part)[2:] for part in tables if "| reason |" in part]
    listed = [sorted(name.strip("`") for name, _ in table) for table in found]
    assert listed == [sorted(REASONS), sorted(IMPORT_REASONS)]
    assert set(REASONS) == texts_of(reasons, samples)
    assert set(IMPORT_REASONS) == texts_of(unit_lines) | {samples.BAD_NAME, samples.DUPLICATE_KEY}
    assert all(meaning for table in found for _, meaning in table)


def test_every_job_is_named():
    text = "\n".join(page.read_text() for page in PAGES)
    jobs = [str(job.relative_to(ROOT)) for job in [*JOBS, *BENCHES]]
    assert len(JOBS) >= 14
    assert not [job for job in jobs if job not in text]


def test_the_readmes_python_runs(tmp_path, monkeypatch):
    """On an utterance of tests/speech, and on a small model of random weights."""
    blocks = [
        block for language, block in FENCE.findall(README.read_text()) if language == "python"
    ]
    assert len(blocks) == 2
    monkeypatch.chdir(tmp_path)
    audio = waves()[0]
    soundfile.write("speech.wav", audio, 16_000)
    made: dict = {}
    exec(blocks[0], made)
    assert made["tokens"].dtype == np.uint16 and made["tokens"].ndim == 1
    frames = len(made["tokens"])
    assert frames == (len(audio) - 400) // 320 + 1
    assert made["speech"].shape == (320 * frames + 80,) and made["speech"].dtype == np.float32

    files = TokenizerFiles.read(PRETRAINED / "wavlm-tiny-d1024")
    config = LMConfig(codebook_size=files.codebook_size, **PRESETS["tiny"])
    model = SpeechLM.from_tokenizer(config, files)
    save_lm(Path("out/demo/lm/model"), model, tokenizer=files, made_by={})
    exec(blocks[1], made)
    assert made["continuation"].shape == (200,)


def test_the_demos_figures_have_their_meanings():
    """The table that results.md shows of a tokenizer is worded as the job prints it."""
    text = (ROOT / "docs/results.md").read_text()
    interval = r"(?:[\d,]+\.\d+ to [\d,]+\.\d+: )?"
    shown = dict(re.findall(rf"^(\w+) +[\d.,]+  {interval}(\w.*)$", text, re.M))
    assert len(shown) > 8
    assert shown == {name: TOKEN_MEANINGS[name] for name in shown}


def test_token_shards_are_plain_webdataset(tmp_path, monkeypatch, capsys):
    """The Python in formats.md reads what the one writer of token shards writes."""
    text = (ROOT / "docs/formats.md").read_text()
    (block,) = [block for kind, block in FENCE.findall(text) if kind == "python"]
    monkeypatch.chdir(tmp_path)
    shard = Path("out/tokens/shards/speech-000000.tar")
    shard.parent.mkdir(parents=True)
    writer = TokenShardWriter(shard, shard="speech-000000", codebook_size=8)
    about = {"duration_s": 0.5, "sample_rate": 16_000, "metadata": {"speaker": "a"}}
    writer.add("u0", np.array([1, 2, 7], np.uint16), **about)
    writer.close()
    exec(block, {})
    assert capsys.readouterr().out == "u0 [1 2 7] 0.5\n"


@pages
def test_links_lead_somewhere(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, place = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists():
            broken.append(target)
        elif place:
            titles = re.findall(r"^#+ (.*)$", FENCE.sub("", file.read_text()), re.M)
            broken += [] if place in map(anchor, titles) else [target]
    assert not broken


@pages
def test_files_that_are_named_exist(page):
    """Paths below the project's folders, in prose and in tables."""
    path = re.compile(r"(?:jobs|pipeline|tokenizer|lm|tests|docs)/[\w./-]*\.(?:py|md|png|json)")
    named = {found for span in spans(page) for found in path.findall(span)}
    # Data beside the project, and outputs, have such names too.
    named = {name for name in named if not name.startswith("lm/model/")} - ANNOUNCED
    assert not [name for name in named if not (ROOT / name).exists()]


@pages
def test_tests_that_are_named_exist(page):
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", prose(page))
    assert not [test for file, test in named if f"def {test}(" not in (ROOT / file).read_text()]


@pages
def test_folders_that_are_named_exist(page):
    folder = re.compile(r"(?:jobs|pipeline|tokenizer|lm|tests|docs)/[\w/]*")
    named = [span for span in spans(page) if folder.fullmatch(span) and span.endswith("/")]
    outputs = {"tokenizer/"} if page.name == "formats.md" else set()
    assert not [name for name in named if name not in outputs and not (ROOT / name).is_dir()]


def test_the_packages_are_those_of_the_map():
    """The tree in architecture.md has every package, and names none that is not there."""
    text = (ROOT / "docs/architecture.md").read_text()
    tree = FENCE.findall(text[text.index("## The packages") :])[0][1]
    shown, path = set(), []
    for line in tree.splitlines():
        found = re.match(r"( *)(\w+)/", line)
        if found:
            path = [*path[: len(found[1]) // 2], found[2]]
            shown.add("/".join(path))
    shown -= {"docs", "tests"}
    there = {"tokenizer/pretrained"}
    for package in ("jobs", "pipeline", "lm", "tokenizer"):
        rooms = ROOT.glob(f"{package}/**/__init__.py")
        there |= {str(room.parent.relative_to(ROOT)) for room in rooms}
    assert shown == there


def test_the_calls_on_the_way_exist():
    """Each file of the two walks defines what the table says it calls."""
    walks = [row for row in rows((ROOT / "docs/architecture.md").read_text()) if len(row) == 3]
    calls = [(row[0].strip("`"), row[1].strip("`")) for row in walks if row[0].startswith("`")]
    assert len(calls) > 30
    lost = [
        (file, call)
        for file, call in calls
        if not re.search(rf"^ *(?:def|class) {call}\b", (ROOT / file).read_text(), re.M)
    ]
    assert not lost


def test_make_has_the_targets_that_are_named():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    for page in PAGES:
        code = [
            *spans(page),
            *(line for _, block in FENCE.findall(page.read_text()) for line in block.splitlines()),
        ]
        for line in code:
            named = re.match(r"(?:\$ )?make (\w+)$", line)
            assert not named or named[1] in targets, line


def commands(page: Path) -> Iterator[tuple[Path, list[str]]]:
    """(job, arguments) of each command line of ours that a page shows."""
    lines = spans(page)
    for language, block in FENCE.findall(page.read_text()):
        if language == "python":
            continue
        text = re.sub(r"\\\n\s*", " ", block)
        for name, value in re.findall(r'^(\w+)="([^"]*)"$', text, re.M):
            text = text.replace(f"${name} ", f"{value} ")
        lines += text.splitlines()
    for line in lines:
        found = re.search(r"(?:^|python )(jobs/[\w/]+\.py)\b(.*)|^wavmill (\w[\w-]*)( .*|$)", line)
        if not found or found[1] in ANNOUNCED:
            continue
        job = found[1] or f"jobs/{found[3].replace('-', '_')}.py"
        arguments = (found[2] if found[1] else found[4]).rstrip('"')
        yield ROOT / job, shlex.split(arguments, comments=True)


@pages
def test_commands_have_the_flags_they_show(page):
    wrong = []
    for job, arguments in commands(page):
        if not job.is_file():
            wrong.append(str(job))
            continue
        given = {word for word in arguments if word.startswith("--") and len(word) > 2}
        wrong += [f"{job.name} {flag}" for flag in given - flags_of(job) - {"--help"}]
    assert not wrong


def test_commands_are_found():
    """The checks above see what a person sees."""
    shown = {job.name for page in PAGES for job, _ in commands(page)}
    assert {job.name for job in [*JOBS, *BENCHES]} <= shown
    assert {"--input", "--tokenizer", "--max-reject-rate", "--batch-seconds"} <= flags_of(
        ROOT / "jobs/tokenize.py"
    )
    assert "--preset" not in flags_of(ROOT / "jobs/tokenize.py")


@pages
def test_flags_that_are_named_exist(page):
    everything = set().union(*(flags_of(job) for job in [*JOBS, *BENCHES])) | {"--help"}
    ours = [span for span in spans(page) if span.startswith("--")]
    named = {word for span in ours for word in span.split() if word.startswith("--")}
    old = {"--noise", "--start"} if page.name == "CHANGELOG.md" else set()
    assert not named - everything - old
