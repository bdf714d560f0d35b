"""A Kaldi data folder: wav.scp, and segments, text, utt2spk and the like where they are.

Formats: https://kaldi-asr.org/doc/data_prep.html. A wav.scp may name shell commands; none is run.
"""

from collections.abc import Iterator

from pipeline.ingest.manifests.rows import ManifestRow, with_span
from pipeline.ingest.manifests.text import numbered_lines
from pipeline.ingest.sources import BAD_LINE, COMMAND
from tokenizer.storage.folder import Folder

WAVS, SEGMENTS, CHANNELS = "wav.scp", "segments", "reco2file_and_channel"
# Files with a line an utterance, and the name of what they say about it.
ABOUT = {
    "text": "text",
    "utt2spk": "speaker",
    "utt2lang": "language",
    "utt2dur": "duration",
    "utt2num_samples": "num_samples",
}
CHANNEL_NAMES = {"A": 0, "1": 0, "B": 1, "2": 1}


def read_kaldi(url: str, name: str) -> Iterator[ManifestRow]:
    """The rows of a data folder: its segments, or its recordings where it has no segments.

    name: of the folder, for their places. Raises UsageError for a file that cannot be read.
    """
    folder = Folder(url, argument=None)
    wavs: dict[str, tuple[str, str]] = {}
    for place, values in _table(folder, name, WAVS):
        if len(values) == 2 and values[0] not in wavs:
            wavs[values[0]] = (values[1], place)
        else:
            yield ManifestRow(place=place, key=values[0], problem=BAD_LINE)
    about = {
        field: {values[0]: values[1] for _, values in _table(folder, name, file) if len(values) > 1}
        for file, field in ABOUT.items()
        if _has(folder, file)
    }
    channels = _channels(folder, name) if _has(folder, CHANNELS) else {}
    if not _has(folder, SEGMENTS):
        for key, (path, place) in wavs.items():
            yield _row(key, path, place=place, about=about, key=key, channels=channels)
        return
    for place, values in _table(folder, name, SEGMENTS):
        key, parts = values[0], (values[1].split() if len(values) > 1 else [])
        if len(parts) not in (3, 4) or parts[0] not in wavs:
            yield ManifestRow(place=place, key=key, problem=BAD_LINE, metadata={"segment": parts})
            continue
        recording = parts[0]
        row = _row(
            recording, wavs[recording][0], place=place, about=about, key=key, channels=channels
        )
        row.metadata = {**row.metadata, "recording": recording}
        # A negative end is the recording's.
        end = None if parts[2].startswith("-") else parts[2]
        if len(parts) == 4:
            row.channel = CHANNEL_NAMES.get(parts[3], row.channel)
        yield with_span(row, start=parts[1], end=end)


def _row(
    recording: str,
    path: str,
    *,
    place: str,
    about: dict[str, dict[str, str]],
    key: str,
    channels: dict[str, int],
) -> ManifestRow:
    metadata = {field: values[key] for field, values in about.items() if key in values}
    row = ManifestRow(place=place, key=key, path=path, metadata=metadata)
    row.channel = channels.get(recording)
    if path.rstrip().endswith("|"):
        row.path, row.problem = None, COMMAND
    return row


def _channels(folder: Folder, name: str) -> dict[str, int]:
    """The channel of each recording of a file that several share."""
    found = {}
    for _, values in _table(folder, name, CHANNELS):
        parts = values[1].split() if len(values) > 1 else []
        if len(parts) == 2 and parts[1] in CHANNEL_NAMES:
            found[values[0]] = CHANNEL_NAMES[parts[1]]
    # One recording for all of a file has all of its channels.
    return found if len(set(found.values())) > 1 else {}


def _has(folder: Folder, file: str) -> bool:
    return bool(folder.fs.exists(folder.path(file)))


def _table(folder: Folder, name: str, file: str) -> Iterator[tuple[str, list[str]]]:
    """(place, [first word, rest of the line]) of every line."""
    url = folder.fs.unstrip_protocol(folder.path(file))
    for number, line in numbered_lines(url):
        yield f"{name}/{file}:{number}", line.strip().split(maxsplit=1)
