"""docs/quickstart.ipynb runs from start to end, in a kernel of its own."""

import os

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient


@pytest.mark.slow
def test_the_quickstart_runs(monkeypatch):
    # As after `pip install`: the kernel starts in docs/, where the project is not on the path.
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    notebook = nbformat.read(ROOT / "docs/quickstart.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # outputs are not kept
    resources = {"metadata": {"path": str(ROOT / "docs")}}
    NotebookClient(notebook, timeout=300, resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    assert kinds.count("image/png") == 1  # the spectrogram
    players = [output["data"]["text/html"] for output in outputs if "text/html" in str(output)]
    assert sum("<audio" in player for player in players) == 3
    (printed,) = [output["text"] for output in outputs if output.get("name") == "stdout"]
    before, after = (float(word) for word in printed.split() if "." in word)
    assert after < before
