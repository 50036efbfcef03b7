"""The notebooks as Colab runs them: torch, numpy and pandas there, no checkout, no compiler; the set-up cell does all.

On Python 3.13 these have the versions that Colab has. The repository is cloned as it was committed: what is not
committed is not tested.
"""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

pytestmark = pytest.mark.colab
ROOT = Path(__file__).parents[2]
VERSIONS = "from importlib.metadata import version as v; print(v('torch'), v('numpy'), v('pandas'))"
# The first two as they are, but for a shorter training; the third reads one of the book's tables.
NOTEBOOKS = {"01_first_policy": {}, "ablation": {"steps": 200, "bc_steps": 100, "seeds": [0]}, "L_quick_results": {}}


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
    packages = ("torch", "numpy", "pandas", "ipykernel", "papermill", "setuptools")
    run(python, "-m", "pip", "install", "--quiet", "--constraint", pins, *packages)
    run(python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", place, place / "repository")
    (wheel,) = place.glob("trac_book-*.whl")
    (stub,) = (place / "venv").glob("lib/python3*/site-packages")
    (stub / "google" / "colab").mkdir(parents=True)
    (stub / "google" / "colab" / "__init__.py").write_text("")
    (stub / "colab.pth").write_text("import google.colab\n")
    environment |= {"TRAC_BOOK_SOURCE": wheel.as_uri(), "TRAC_BOOK_REPOSITORY": (place / "repository").as_uri()}

    def execute(name, **parameters):
        """The notebook's text output."""
        (content / f"{name}.ipynb").write_bytes((ROOT / "notebooks" / f"{name}.ipynb").read_bytes())
        words = [word for key, value in parameters.items() for word in ("-y", f"{key}: {value}")]
        run(python, "-m", "papermill", f"{name}.ipynb", f"{name}.out.ipynb", "--kernel", "python3", *words)
        cells = nbformat.read(content / f"{name}.out.ipynb", as_version=4).cells
        return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))

    return run, python, execute, environment


def test_without_a_simulator_the_tables_are_read(colab, tmp_path):
    run, python, execute, environment = colab
    # No such versions: as on a Python for which nobody has built wheels.
    (tmp_path / "none.txt").write_text("pybullet==0\npybullet-arm64==0\n")
    environment["PIP_CONSTRAINT"] = str(tmp_path / "none.txt")
    said = execute("L_quick_results")
    del environment["PIP_CONSTRAINT"]
    assert "No simulator could be installed" in said and "safe in how many of the nine rows" in said
    assert run(python, "-c", "import trac; trac.load('BallRun')") == ""


def test_the_notebooks_run_with_nothing_but_the_set_up_cell(colab):
    run, python, execute, _ = colab
    before = run(python, "-c", VERSIONS)
    said = {name: execute(name, **parameters) for name, parameters in NOTEBOOKS.items()}
    assert run(python, "-c", VERSIONS) == before
    assert "site-packages" in run(python, "-c", "import trac; print(trac.__file__)")
    assert "BC-All is unsafe; TraC is safe" in said["01_first_policy"]
    assert "changed from the defaults: bc_steps = 100, steps = 200" in said["ablation"]
    assert "safe in how many of the nine rows" in said["L_quick_results"]
