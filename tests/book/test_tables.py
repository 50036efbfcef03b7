"""How the book's tables are filled: only what is missing is run, and nothing that is there changes."""

import pandas as pd
import pytest
import tables
import torch

KEYS = ["task", "seed"]


@pytest.fixture
def fill(tmp_path):
    """Fill t.csv by jobs (task, seeds); what was run, and the table as it is read again."""
    path, calls = tmp_path / "t.csv", []

    def one_run(task, seeds):
        calls.append((task, seeds))
        parts = [(seed, part) for seed in seeds for part in ("b", "a")]
        rows = [dict(task=task, seed=seed, part=part, normalized_reward=len(calls)) for seed, part in parts]
        return pd.DataFrame(rows).assign(normalized_cost=0.5)

    def run(*jobs, **options):
        calls.clear()
        made = [((task, seeds), [{(task, seed) for seed in seeds}]) for task, seeds in jobs]
        found = tables.run_missing(
            one_run, made, {path: tables.read(path, KEYS)}, KEYS, "python book/t.py", 1, **options
        )
        if path.is_file():
            pd.testing.assert_frame_equal(found[path], tables.read(path, KEYS), check_dtype=False)
        return list(calls), found[path]

    run.path = path
    return run


def test_only_what_is_missing_is_run_and_what_is_there_stays(fill):
    calls, table = fill(("B", (1,)), ("A", (0,)))
    assert calls == [("B", (1,)), ("A", (0,))]
    # Sorted by the keys; the rows of a run stay in their order.
    rows = table[["task", "seed", "part", "normalized_reward"]].values.tolist()
    assert rows == [["A", 0, "b", 2], ["A", 0, "a", 2], ["B", 1, "b", 1], ["B", 1, "a", 1]]
    # Of a run that makes one row that is there and one that is not, the second is taken.
    calls, table = fill(("B", (1,)), ("A", (0, 1)))
    assert calls == [("A", (0, 1))]
    assert table.groupby(KEYS).normalized_reward.agg(list).to_dict() == {
        ("A", 0): [2, 2],
        ("A", 1): [1, 1],
        ("B", 1): [1, 1],
    }


def test_new_rows_stand_at_the_end_where_the_table_is_not_sorted(fill):
    fill(("B", (1,)), sort=False)
    _, table = fill(("A", (0,)), ("B", (1,)), sort=False)
    assert table.task.tolist() == ["B", "B", "A", "A"]


def test_where_nothing_is_missing_nothing_is_written(fill):
    fill(("A", (0,)))
    content = fill.path.read_bytes().replace(b"commit", b"commit of long ago")
    fill.path.write_bytes(content)
    calls, _ = fill(("A", (0,)))
    assert calls == [] and fill.path.read_bytes() == content


def test_each_run_is_on_the_disk_before_the_next_one_fails(fill, monkeypatch):
    write, written = tables.write, []

    def full(frame, path, command):
        if written:
            raise OSError(28, "No space left on device")
        written.append(path)
        write(frame, path, command)

    monkeypatch.setattr(tables, "write", full)
    with pytest.raises(OSError, match="No space left"):
        fill(("A", (0,)), ("B", (0,)))
    assert set(tables.read(fill.path, KEYS).task) == {"A"}
    assert [path.name for path in fill.path.parent.iterdir()] == ["t.csv"]


def test_the_head_says_what_made_the_table(fill):
    fill(("A", (0,)))
    command, commit, machine, columns, *rows = fill.path.read_text().splitlines()
    assert (
        command == "# python book/t.py" and commit.startswith("# commit ") and f"torch {torch.__version__}" in machine
    )
    assert columns == "task,seed,part,normalized_reward,normalized_cost" and len(rows) == 2


def test_a_run_of_two_tables_is_made_where_one_lacks_it(tmp_path):
    paths, calls = [tmp_path / "runs.csv", tmp_path / "looks.csv"], []

    def one_run(task):
        calls.append(task)
        frame = pd.DataFrame([dict(task=task, normalized_reward=1.0, normalized_cost=0.5)])
        return frame, frame if task == "A" else pd.DataFrame([])

    def run():
        calls.clear()
        jobs = [(("A",), [{("A",)}, {("A",)}]), (("B",), [{("B",)}, set()])]
        now = {path: tables.read(path, ["task"]) for path in paths}
        return tables.run_missing(one_run, jobs, now, ["task"], "python book/t.py", 1)

    found = run()
    assert calls == ["A", "B"]
    assert [found[path].task.tolist() for path in paths] == [["A", "B"], ["A"]]
    paths[1].unlink()
    before = paths[0].read_bytes()
    assert run()[paths[1]].task.tolist() == ["A"] and calls == ["A"]
    assert paths[0].read_bytes() == before
    run()
    assert calls == []
