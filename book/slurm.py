"""A sweep on Slurm: its workers are jobs that dask-jobqueue submits, and this program is their scheduler.

    pip install dask-jobqueue
    python book/slurm.py notebooks/ablation.ipynb --out /shared/alpha --grid alpha=0.1,0.2,0.5 --seeds 0,1,2

Its arguments are those of `python -m trac sweep`. Change the lines in capitals to what your cluster has.
"""

import subprocess
import sys

from dask_jobqueue import SLURMCluster

JOBS = 10  # at the same time
JOB = dict(queue="cpu", walltime="02:00:00", cores=8, processes=8, memory="16GB", log_directory="runs/slurm")
SCHEDULER = dict(dashboard_address=":0")  # and interface="ib0", where the nodes reach this machine by another network


def main() -> None:
    with SLURMCluster(**JOB, scheduler_options=SCHEDULER) as cluster:
        cluster.adapt(minimum_jobs=JOBS, maximum_jobs=JOBS)  # `scale` does not replace a job that ended
        arguments = [*sys.argv[1:], "--scheduler", cluster.scheduler_address]
        sys.exit(subprocess.call([sys.executable, "-m", "trac", "sweep", *arguments]))


if __name__ == "__main__":
    main()
