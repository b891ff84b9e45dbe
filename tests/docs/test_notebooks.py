# SPDX-License-Identifier: Apache-2.0
"""The notebooks run from their first cell to the last, with fewer rows and steps, and are stored without outputs."""

from __future__ import annotations

import json
import re
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT

NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
LESS = {"ROWS": 60, "TEST_ROWS": 140, "STEPS": 2}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_without_outputs(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert [cell["cell_type"] for cell in cells].count("code") > 4
    for cell in cells:
        if cell["cell_type"] == "code":
            assert not cell["outputs"]
            assert cell["execution_count"] is None


@pytest.mark.slow
@pytest.mark.skipif(find_spec("qtawesome") is None, reason="the icons of `scenes` are not installed")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    manager = pytest.importorskip("jupyter_client").AsyncKernelManager(kernel_name="python3", transport="ipc")
    # Not by ports: they are chosen before a kernel takes them, so two kernels may get the same one, and one dies.
    manager.connection_file = str(Path(tempfile.mkdtemp(prefix="kernel-")) / "k.json")  # a socket's path is short
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = nbformat.read(path, as_version=4)
    changed = 0
    for cell in notebook.cells:
        if cell.cell_type == "code":
            for name, number in LESS.items():
                cell.source, times = re.subn(rf"^{name} = \d+$", f"{name} = {number}", cell.source, flags=re.MULTILINE)
                changed += times
    assert changed
    client = nbclient.NotebookClient(
        notebook, km=manager, timeout=900, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    texts = [output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert re.search(r"0\.\d\d|1\.00", "".join(texts))
