"""book/execute.py on small notebooks in a folder of their own, and the state of the real ones."""

import base64
import json
import re
from pathlib import Path

import execute
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[2]

CODE = """
import sys
sys.path.insert(0, "..")
import h5py
from trac_stub import answer
with h5py.File("../trac/data.hdf5") as file, open("../book/table.csv") as table:
    print(answer + int(file["x"][()]), table.read())
open("../book/written.csv", "w").write("1")
"""


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A repository with one notebook, which loads a module and reads two files."""
    h5py = pytest.importorskip("h5py")
    for folder in ("trac", "book", "notebooks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "trac" / "trac_stub.py").write_text("answer = 42\n")
    (tmp_path / "book" / "table.csv").write_text("a,b\n")
    with h5py.File(tmp_path / "trac" / "data.hdf5", "w") as file:
        file["x"] = 0
    code = CODE.replace('".."', '"../trac"')
    save(tmp_path, [new_markdown_cell("# Title"), new_code_cell(code), new_code_cell("answer")])
    monkeypatch.setattr(execute, "ROOT", tmp_path)
    # A kernel of the user's that does not work, and must not be used.
    kernel = tmp_path / "user" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    kernel.joinpath("kernel.json").write_text(
        json.dumps({"argv": ["false"], "display_name": "x", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "user"))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "user"))
    for name in ("TQDM_DISABLE", "JUPYTER_PREFER_ENV_PATH", "OMP_NUM_THREADS"):  # restored when the test ends
        monkeypatch.setenv(name, "")
    return tmp_path


def path_of(book):
    return book / "notebooks" / "one.ipynb"


def save(book, cells):
    execute.write(path_of(book), new_notebook(cells=cells))


def change_code(book):
    notebook = nbformat.read(path_of(book), as_version=4)
    notebook.cells[-1].source += " + 1"
    execute.write(path_of(book), notebook)


def test_a_notebook_is_executed_once(book):
    assert execute.main(["--check"]) == 1
    assert execute.main([]) == 0
    notebook = nbformat.read(path_of(book), as_version=4)
    assert notebook.cells[1].outputs[0].text == "42 a,b\n\n"
    assert [cell.get("execution_count") for cell in notebook.cells] == [None, 1, 2]
    assert notebook.metadata.trac.inputs == ["book/table.csv", "trac/data.hdf5", "trac/trac_stub.py"]
    assert set(notebook.metadata) == {"kernelspec", "language_info", "trac"}
    assert all(not cell.metadata for cell in notebook.cells)
    assert execute.main(["--check"]) == 0

    before = path_of(book).read_bytes()
    assert execute.main([]) == 0 and path_of(book).read_bytes() == before
    times = book / "times.csv"
    assert execute.main(["--force", "--times", str(times)]) == 0 and path_of(book).read_bytes() == before
    head, row = times.read_text().splitlines()
    assert head == "notebook,seconds,processor seconds" and re.fullmatch(r"one,\d+,\d+", row)

    changes = {
        "code": lambda: change_code(book),
        "module": lambda: (book / "trac" / "trac_stub.py").write_text("answer = 43\n"),
        "data": lambda: (book / "book" / "table.csv").write_text("c,d\n"),
        "missing": lambda: (book / "trac" / "data.hdf5").unlink(),
    }
    for change in changes.values():
        path_of(book).write_bytes(before)
        assert not execute.is_stale(path_of(book))
        change()
        assert execute.is_stale(path_of(book))
        if (book / "trac" / "data.hdf5").exists():
            (book / "trac" / "trac_stub.py").write_text("answer = 42\n")
            (book / "book" / "table.csv").write_text("a,b\n")


def test_text_comments_and_set_up_cell_do_not_make_it_stale(book):
    execute.main([])
    notebook = nbformat.read(path_of(book), as_version=4)
    notebook.cells[0].source = "# Another title"
    notebook.cells.insert(1, new_code_cell("import sys", metadata={"tags": ["setup"]}, execution_count=1))
    execute.write(path_of(book), notebook)
    (book / "trac" / "trac_stub.py").write_text('"""A docstring."""\n\nanswer = 42  # and a comment\n')
    assert not execute.is_stale(path_of(book))
    notebook.cells[2].execution_count = None
    execute.write(path_of(book), notebook)
    assert execute.is_stale(path_of(book))


def test_a_failing_notebook_leaves_the_old_one(book, capfd):
    save(book, [new_code_cell("1 / 0")])
    before = path_of(book).read_bytes()
    assert execute.main([]) == 1
    assert path_of(book).read_bytes() == before
    failing = book / "_build" / "failed" / "one.ipynb"
    error = capfd.readouterr().err
    assert "ZeroDivisionError" in error and str(failing) in error
    assert "_h5py" not in failing.read_text()
    assert not list(path_of(book).parent.glob(".*"))


def test_what_does_not_fit_is_refused(book):
    image = base64.b64encode(bytes(execute.IMAGE_LIMIT + 1)).decode()
    for data in ({"image/png": image}, {"text/html": f'<img src="data:image/gif;base64,{image}">'}):
        cell = new_code_cell("x", outputs=[new_output("display_data", data=data)])
        with pytest.raises(execute.NotebookError, match="an image of 150 kB"):
            execute.check("x", new_notebook(cells=[cell]))
    cell = new_code_cell("x", outputs=[new_output("stream", text="x\n" * execute.NOTEBOOK_LIMIT)])
    with pytest.raises(execute.NotebookError, match="the limit is 1000"):
        execute.check("x", new_notebook(cells=[cell]))
    cell = new_code_cell("x", outputs=[new_output("stream", text=f"{book}/x.py:1: UserWarning")])
    with pytest.raises(execute.NotebookError, match="relative path"):
        execute.check("x", new_notebook(cells=[cell]))
    cell = new_code_cell("x", outputs=[new_output("stream", text="table\n" + "x" * (execute.WIDTH_LIMIT + 1))])
    with pytest.raises(execute.NotebookError, match="89 characters, 88 fit"):
        execute.check("x", new_notebook(cells=[cell]))


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_the_books_notebooks_are_in_order(path):
    notebook = nbformat.read(path, as_version=4)
    execute.check(path.name, notebook)
    before = json.dumps(notebook)
    execute.normalise(notebook)
    assert json.dumps(notebook) == before, "run: python book/execute.py --force on it"
