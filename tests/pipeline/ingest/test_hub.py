"""A dataset of the Hugging Face hub as input: its own client, against a server that acts as one."""

import hashlib
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import fsspec.config
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from here import ingest_here, samples_of

pytest.importorskip("huggingface_hub")
NAME = "user/speech"


class Hub(BaseHTTPRequestHandler):
    """What the client asks of a repository: whether it is there, its listings, ranges of files.

    https://huggingface.co/docs/hub/api
    """

    root: Path

    def log_message(self, *_):
        pass

    def do_GET(self):
        url = urlsplit(self.path)
        kind, *parts = [unquote(part) for part in url.path.strip("/").split("/")]
        if kind == "api" and "/".join(parts[1:3]) == NAME:
            place = self.root.joinpath(*parts[5:])
            if parts[3:4] != ["tree"]:
                return self.answer({"id": NAME, "sha": "1" * 40, "siblings": [], "tags": []})
            if place.exists():
                deep = parse_qs(url.query)["recursive"] == ["true"]
                below = place.rglob("*") if deep else place.iterdir() if place.is_dir() else [place]
                return self.answer([self.entry(each) for each in sorted(below)])
        elif kind == "datasets" and "/".join(parts[:2]) == NAME and parts[2] == "resolve":
            return self.part(self.root.joinpath(*parts[4:]).read_bytes())
        return self.answer({"error": "not found"}, 404)

    def entry(self, path):
        name = path.relative_to(self.root).as_posix()
        if path.is_dir():
            return {"type": "directory", "oid": "0", "size": 0, "path": name}
        data = path.read_bytes()
        oid = hashlib.sha1(data).hexdigest()
        return {"type": "file", "oid": oid, "size": len(data), "path": name}

    def part(self, data):
        first, last = map(int, self.headers["range"].removeprefix("bytes=").split("-"))
        self.send(206, "application/octet-stream", data[first : last + 1])

    def answer(self, value, status=200):
        self.send(status, "application/json", json.dumps(value).encode())

    def send(self, status, kind, data):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The folder of a dataset that hf://datasets/user/speech then is."""
    Hub.root = tmp_path / "hub"
    Hub.root.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": endpoint})
    yield Hub.root
    server.shutdown()
    server.server_close()


def test_a_dataset_of_the_hub_is_a_folder_like_any_other(hub, tmp_path):
    for number in range(2):
        rows = []
        for row in range(2):
            file = io.BytesIO()
            noise = np.random.default_rng(2 * number + row).integers(-3000, 3000, 8000)
            soundfile.write(file, noise.astype(np.int16), 16_000, format="FLAC")
            audio = {"bytes": file.getvalue(), "path": f"{number}-{row}.flac"}
            rows.append({"audio": audio, "text": f"text of {row}"})
        (hub / "clean").mkdir(exist_ok=True)
        path = hub / "clean" / f"train-0000{number}-of-00002.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path)
    (hub / "audio").mkdir()
    (hub / "audio" / "a b.flac").write_bytes(file.getvalue())
    line = {"audio_filepath": "audio/a b.flac", "text": "of a manifest"}
    (hub / "train.jsonl").write_text(json.dumps(line))
    for number, (at, inside) in enumerate(
        [
            (NAME, "clean"),
            (NAME, "**/*.parquet"),
            (f"{NAME}@refs/convert/parquet", "clean"),
            (NAME, "train.jsonl"),
        ]
    ):
        there, here = tmp_path / f"there-{number}", tmp_path / f"here-{number}"
        done = ingest_here([f"hf://datasets/{at}/{inside}"], there)
        assert done["rejected"] == 0 and done["ok"] == (1 if "jsonl" in inside else 4)
        ingest_here([f"{hub}/{inside}"], here)
        assert samples_of(there) == samples_of(here)
