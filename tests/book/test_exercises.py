"""The chapters run again with their exercises: a stub must fail its own checks, the printed solution must pass them.

What holds on every machine must come out again, so that nbval need not run these chapters a second time.
"""

import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from trac.teaching.exercise import attempt

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
CHAPTERS = sorted([*NOTEBOOKS.glob("[01A-KM-O]*_*.ipynb"), NOTEBOOKS / "core.ipynb", NOTEBOOKS / "own_task.ipynb"])
SOLUTION = re.compile(r"`{3,}\{solution\} ([\w-]+)\n(.*?)\n`{4,}", re.DOTALL)
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def exercises(notebook):
    """Labels of the exercises that are stated, the stub cell of each, and the code of each solution."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    stated = re.findall(r"\{exercise\}[^\n]*\n:label: ([\w-]+)", text)
    cells = [c for c in notebook.cells if "exercise" in c.metadata.get("tags", [])]
    stubs = {re.search(r'with attempt\("([\w-]+)"\)', cell.source)[1]: cell for cell in cells}
    solutions = {label: "\n".join(CODE.findall(body)) for label, body in SOLUTION.findall(text)}
    return stated, stubs, solutions


def said(cell):
    """What a cell prints and shows, as text; one print may come in pieces."""
    return "".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs)


def test_no_notebook_is_left_out():
    """`make test-notebooks` runs those without the tag, and this file the others."""
    assert {path for path in NOTEBOOKS.glob("*.ipynb") if '"exercise"' in path.read_text()} == set(CHAPTERS)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_each_exercise_has_a_stub_that_is_unsolved_and_a_solution(path):
    stated, stubs, solutions = exercises(nbformat.read(path, as_version=4))
    assert len(stated) >= 3 and set(stated) == set(stubs) == set(solutions)
    for label, cell in stubs.items():
        assert f"{label}: not solved yet" in said(cell), label


@pytest.mark.slow
@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_stubs_fail_solutions_pass_and_outputs_come_again(path, monkeypatch):
    monkeypatch.setenv("TRAC_EXERCISES", "strict")
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, as_version=4)
    _, stubs, solutions = exercises(notebook)
    before = [(cell, said(cell)) for cell in notebook.cells if "nbval-check-output" in cell.metadata.get("tags", [])]
    cells, expected = [], {}
    for cell in notebook.cells:
        label = next((label for label, stub in stubs.items() if stub is cell), None)
        if label is None:
            cells.append(cell)
            continue
        checks = cell.source[cell.source.index("with attempt(") :]
        # First the stub, whose failure is noted, then the solution followed by the stub's checks.
        cell.metadata["tags"] = ["raises-exception"]
        expected[len(cells)] = label
        cells += [cell, nbformat.v4.new_code_cell(f"{solutions[label]}\n\n{checks}")]
    notebook.cells = cells
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": NOTEBOOKS}}).execute()
    for number, label in expected.items():
        assert any(output.output_type == "error" for output in cells[number].outputs), f"the stub of {label} passes"
        assert said(cells[number + 1]).endswith(f"{label}: solved\n")
    for cell, text in before:
        assert said(cell) == text, cell.source


CELL = """
answer, nothing = 2, None
with attempt("right"):
    assert answer == 2
with attempt("wrong"):
    assert np.isclose(
        answer / 4, 3
    )
with attempt("told"):
    assert answer == 3, f"expected 3, got {answer}"
with attempt("empty"):
    assert abs(nothing - 3) < 1
with attempt("error"):
    int("two")
"""
SAID = """\
right: solved
wrong: not solved yet
    assert np.isclose(
        answer / 4, 3
    )
    answer / 4 is 0.5
told: not solved yet
    assert answer == 3, f"expected 3, got {answer}"
    expected 3, got 2
empty: not solved yet
    assert abs(nothing - 3) < 1
    An answer is missing: it is still None, or nothing is returned.
error: not solved yet
    int("two")
    ValueError: invalid literal for int() with base 10: 'two'
"""


def test_an_attempt_says_whether_it_holds(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("TRAC_EXERCISES", raising=False)
    cell = tmp_path / "cell.py"  # pytest writes messages of its own into the asserts of this file
    cell.write_text(CELL)
    exec(compile(CELL, str(cell), "exec"), {"attempt": attempt, "np": np})
    assert capsys.readouterr().out == SAID
    monkeypatch.setenv("TRAC_EXERCISES", "strict")
    with pytest.raises(TypeError), attempt("strict"):
        len(None)
