"""The manual's notebooks run from top to bottom and say what they say there."""

import pytest

from .manual import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "docs" / "notebooks").glob("*.ipynb"))


def printed(cell):
    return "".join(out.text for out in cell.get("outputs", []) if out.output_type == "stream")


@pytest.mark.filterwarnings("ignore")  # of Jupyter's own, about its sockets and loops
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_outputs_are_those_shown(path):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    shown = nbformat.read(path, as_version=4)
    run = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    nbclient.NotebookClient(run, timeout=300, kernel_name="python3", resources=resources).execute()
    for before, after in zip(shown.cells, run.cells, strict=True):
        if before.cell_type == "code" and "ProgressBar(" not in before.source:
            assert printed(after) == printed(before), before.source
