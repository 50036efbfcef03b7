"""How many threads: updates per second of one run, alone and beside a process that keeps a core busy.

    .venv/bin/python benchmarks/threads.py          # the table of book/ablations.md, in a minute, on an idle machine

The cases take turns, each in a process of its own, because OpenMP reads its settings when it is loaded.
"""

import json
import os
import subprocess
import sys
import time

import pandas as pd
import tyro

CASES = {
    "1": {"OMP_NUM_THREADS": "1"},
    "2": {"OMP_NUM_THREADS": "2"},
    "2, OMP_WAIT_POLICY=passive": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"},
}
RATE = """
import time, core, trac
update = core.updates(trac.load("BallCircle"), trac.TracConfig(task="BallCircle", bc_steps=0, warmup_steps=0))
for _ in range(10):
    update()
started, made = time.perf_counter(), 0
while time.perf_counter() < started + 2:
    update()
    made += 1
print(made / (time.perf_counter() - started))
"""
BUSY = "while True: pass"


def main(rounds: int = 4) -> None:
    """Print the medians.

    Args:
        rounds: turns of each case.
    """
    rows = []
    for _ in range(rounds):
        for busy in (False, True):
            other = subprocess.Popen([sys.executable, "-c", BUSY]) if busy else None
            try:
                for threads, variables in CASES.items():
                    folders = [os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")]
                    environment = os.environ | variables | {"PYTHONPATH": os.pathsep.join(filter(None, folders))}
                    shown = subprocess.check_output([sys.executable, "-c", RATE], env=environment, text=True)
                    case = "beside a busy core" if busy else "alone"
                    rows.append({"threads": threads, "case": case, "rate": json.loads(shown)})
            finally:
                if other:
                    other.kill()
                    other.wait()
            time.sleep(0.5)
    table = pd.DataFrame(rows).pivot_table(index="threads", columns="case", values="rate", aggfunc="median")
    print(f"updates per second, median of {rounds}, {os.cpu_count()} cores", table.round(0), sep="\n")


if __name__ == "__main__":
    tyro.cli(main)
