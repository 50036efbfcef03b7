import sys
import warnings
from types import SimpleNamespace

import pytest
from baseline_cases import TRAIN, small
from conftest import same

import trac
from trac.core import trackers

CONFIG = trac.TracConfig(
    task="BallCircle", cost_limit=8, batch_size=4, hidden=(16,), bc_steps=10, steps=30, log_every=5
)
CONFIG = CONFIG.replace(eval_episodes=0, warmup_steps=5)


def told(history):
    """A history as a tracker is told of it, without evaluations."""
    rows = history.to_dict("records")
    return [(row.pop("step"), {name: value for name, value in row.items() if value == value}) for row in rows]


class Calls(list):
    def __call__(self, run, step, row):
        self.append((run, step, {name: value for name, value in row.items() if value == value}))

    def of(self, run):
        return [(step, row) for which, step, row in self if which == run]


def test_a_tracker_is_told_the_history_of_each_run_of_a_list(data):
    calls = Calls()
    # The second shares no stack with the others, so that runs are not made in their order.
    configs = [CONFIG, CONFIG.replace(hidden=(8,)), CONFIG.replace(seed=1)]
    runs = trac.train(data, configs, progress=False, tracker=calls)
    for place, run in enumerate(runs):
        assert calls.of(place) == told(run.history) and len(calls.of(place)) == 6
    assert all(
        same(run.policy, alone.policy)
        for run, alone in zip(runs, trac.train(data, configs, progress=False), strict=True)
    )


def test_evaluations_are_told_in_calls_of_their_own(data):
    calls = Calls()
    run = trac.train(data, CONFIG.replace(eval_episodes=1), progress=False, tracker=calls)
    assert calls[-1][1] == 30 and calls[-1][2]["normalized_cost"] == run.history.normalized_cost.iloc[-1]
    assert [step for _, step, _ in calls].count(30) == 2


def test_after_a_resume_the_steps_since_the_checkpoint_are_told_again(data, tmp_path):
    class Stopped(BaseException):
        pass

    first, second = Calls(), Calls()

    def stop(run, step, row):
        first(run, step, row)
        if step == 20:
            raise Stopped

    options = dict(out=tmp_path / "run", checkpoint_every=15, progress=False)
    with pytest.raises(Stopped):
        trac.train(data, CONFIG, tracker=stop, **options)
    run = trac.train(data, CONFIG, tracker=second, resume=True, **options)
    assert [step for _, step, _ in first] == [5, 10, 15, 20] and [step for _, step, _ in second] == [20, 25, 30]
    assert first[-1] == second[0]
    assert [*first[:3], *second] == [(0, *row) for row in told(run.history)]


def test_a_tracker_that_fails_costs_nothing_but_its_rows(data):
    def fails(run, step, row):
        row.clear()  # its own copy
        raise OSError("the server is away")

    with pytest.warns(UserWarning, match="the tracker failed at step 5; the training goes on without") as caught:
        run = trac.train(data, CONFIG, progress=False, tracker=fails)
    assert len([w for w in caught if "tracker" in str(w.message)]) == 1
    assert run.history.step.tolist() == [5, 10, 15, 20, 25, 30] and run.history.loss.notna().all()


@pytest.mark.parametrize("name", ["cpq", "cdt"])
def test_offline_baselines(name, data):
    calls = Calls()
    run = TRAIN[name](data, small(name), progress=False, tracker=calls)
    assert calls.of(0) == told(run.history) and len(calls) == 3


def test_online_baselines():
    from trac.baselines.ppo_lag import PPOLagConfig, ppo_lag

    calls = Calls()
    config = PPOLagConfig(task="BallRun", cost_limit=20, steps=500, every=250, eval_episodes=0)
    run = ppo_lag(config, progress=False, tracker=calls)
    assert calls.of(0) == told(run.history) and len(calls) == 2


def test_tensorboard(data, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):  # as after a resume: the rows are there once
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            runs = trac.train(
                data, [CONFIG, CONFIG.replace(seed=1)], progress=False, tracker=trackers.tensorboard(tmp_path)
            )
    for place, run in enumerate(runs):
        events = EventAccumulator(str(tmp_path / f"{place:03d}")).Reload()
        found = events.Scalars("loss")
        assert [event.step for event in found] == run.history.step.tolist()
        assert [event.value for event in found] == pytest.approx(run.history.loss.tolist())


def test_tensorboards_folder_stays_the_same_when_the_directory_changes(tmp_path, monkeypatch):
    places = []
    # In place of TensorBoard, which is not installed everywhere.
    writer = SimpleNamespace(add_scalar=lambda *_: None, flush=lambda: None)
    module = SimpleNamespace(SummaryWriter=lambda place, purge_step: places.append(place) or writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.chdir(tmp_path)
    track = trackers.tensorboard("tb")
    monkeypatch.chdir("/")
    track(0, 1, {"loss": 0.5})
    assert places == [str(tmp_path / "tb" / "000")]


def test_mlflow(data, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(tmp_path.as_uri())
    mlflow.set_experiment("trac")
    with mlflow.start_run() as active:
        run = trac.train(data, CONFIG, progress=False, tracker=trackers.mlflow())
    found = mlflow.MlflowClient().get_metric_history(active.info.run_id, "000/loss")
    assert [(m.step, m.value) for m in found] == list(zip(run.history.step, run.history.loss, strict=True))
