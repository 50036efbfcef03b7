"""The notebooks as Colab runs them: no checkout, torch and numpy installed, no compiler; the set-up cell does the rest.

The repository is cloned as it was committed: what is not committed is not tested.
"""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

pytestmark = pytest.mark.colab
ROOT = Path(__file__).parents[2]
VERSIONS = "from importlib.metadata import version as v; print(v('torch'), v('numpy'))"
# The first two as they are, but for a shorter training; the third reads one of the book's tables.
NOTEBOOKS = {"01_first_policy": {}, "ablation": {"steps": 200, "bc_steps": 100, "seeds": [0]}, "quick_results": {}}


@pytest.fixture(scope="module")
def colab(tmp_path_factory):
    """Run a command in an environment like Colab's, in its working directory."""
    place = tmp_path_factory.mktemp("colab")
    (content := place / "content").mkdir()
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "JUPYTER", "VIRTUAL"))}
    # An environment variable that is not set lets setuptools look for a compiler.
    environment = plain | {"CC": "false", "CXX": "false", "PATH": f"{place / 'venv' / 'bin'}:{os.environ['PATH']}"}
    python = place / "venv" / "bin" / "python"

    def run(*words, where=content):
        done = subprocess.run([str(w) for w in words], cwd=where, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    run("git", "clone", "--quiet", ROOT, place / "repository")
    run(sys.executable, "-m", "venv", place / "venv")
    pins = ROOT / "constraints.txt"
    install = (python, "-m", "pip", "install", "--quiet", "--constraint", pins)
    run(*install, "torch")
    run(
        python, "-m", "pip", "install", "--quiet", "--constraint", pins, "numpy", "ipykernel", "papermill", "setuptools"
    )
    run(python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", place, place / "repository")
    (wheel,) = place.glob("trac_book-*.whl")
    (stub,) = (place / "venv").glob("lib/python3*/site-packages")
    (stub / "google" / "colab").mkdir(parents=True)
    (stub / "google" / "colab" / "__init__.py").write_text("")
    (stub / "colab.pth").write_text("import google.colab\n")
    environment |= {"TRAC_BOOK_SOURCE": wheel.as_uri(), "TRAC_BOOK_REPOSITORY": (place / "repository").as_uri()}
    return run, python, content


def test_the_notebooks_run_with_nothing_but_the_set_up_cell(colab):
    run, python, content = colab
    before = run(python, "-c", VERSIONS)
    for name, parameters in NOTEBOOKS.items():
        (content / f"{name}.ipynb").write_bytes((ROOT / "notebooks" / f"{name}.ipynb").read_bytes())
        words = [word for key, value in parameters.items() for word in ("-y", f"{key}: {value}")]
        run(python, "-m", "papermill", f"{name}.ipynb", f"{name}.out.ipynb", "--kernel", "python3", *words)
    assert run(python, "-c", VERSIONS) == before
    assert "site-packages" in run(python, "-c", "import trac; print(trac.__file__)")
    said = {
        name: "".join(
            output.get("text", "")
            for cell in nbformat.read(content / f"{name}.out.ipynb", as_version=4).cells
            for output in cell.get("outputs", [])
        )
        for name in NOTEBOOKS
    }
    assert "BC-All is unsafe; TraC is safe" in said["01_first_policy"]
    assert "changed from the defaults: bc_steps = 100, steps = 200" in said["ablation"]
    assert "safe in how many of the nine rows" in said["quick_results"]
