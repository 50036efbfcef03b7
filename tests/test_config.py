import dataclasses
import json
import math

import numpy as np
import pytest

from trac.config import ConfigError, TracConfig
from trac.data.tasks import UnknownTask

QUICK = TracConfig(steps=60, bc_steps=30)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(alfa=1), "'alfa' is not a field of TracConfig: did you mean alpha"),
        (dict(alpha=0), "alpha=0: must be greater than 0"),
        (dict(gamma=1.5), "gamma=1.5: must be less than or equal to 1"),
        (dict(dropout=1.0), "dropout=1.0: must be less than 1"),
        (dict(clamp=0.7), "clamp=0.7: must be less than 0.5"),
        (dict(bc_steps=61), "bc_steps=61 must be at most steps=60"),
        (dict(use="none"), "use='none': must be 'both', 'desirable' or 'undesirable'"),
        (dict(reference="cloned"), "reference='cloned': must be 'bc', 'initial' or 'none'"),
        (dict(batch_size=0), "batch_size=0: must be greater than or equal to 1"),
        (dict(seed=-1), "seed=-1: must be greater than or equal to 0"),
        (dict(eta=float("nan")), "eta=nan: must be a finite number"),
        (dict(task="BallRum"), "did you mean BallRun"),
        (dict(task=None), "task=None: must be a valid string"),
        (dict(cost_limit=-5), "cost_limit=-5: must be greater than or equal to 0"),
        (dict(bc_coef=float("inf")), "bc_coef=inf: must be a finite number"),
        (dict(alpha="0.2"), "alpha='0.2': must be a valid number"),
        (dict(cost_limit="20"), "cost_limit='20': must be a valid number"),
        (dict(clamp="1e-6"), "clamp='1e-6': must be a valid number"),
        (dict(seed=1.5), "seed=1.5: must be a valid integer"),
        (dict(log_every=True), "log_every=True: must be a valid integer"),
        (dict(use=None), "use=None: must be 'both', 'desirable' or 'undesirable'"),
        (dict(hidden=128), "hidden=128: must be a tuple, such as \\(64, 64\\)"),
        (dict(hidden="128"), "hidden='128': must be a tuple"),
        (dict(hidden=(0,)), r"hidden=\(0,\): entry 0 must be greater than or equal to 1"),
    ],
)
def test_bad_configs_are_refused(change, message):
    with pytest.raises((ConfigError, UnknownTask), match=message):
        QUICK.replace(**change)


def test_numpys_numbers_become_plain_ones():
    config = QUICK.replace(seed=np.int64(3), alpha=np.float64(0.5), hidden=[np.int64(8), 8])
    assert json.loads(json.dumps(config.to_dict())) == QUICK.replace(seed=3, alpha=0.5, hidden=(8, 8)).to_dict()


def test_a_config_survives_json():
    for config in (QUICK, QUICK.replace(cost_limit=math.inf, bottom=0.5, clamp=1e-6)):
        assert TracConfig.from_dict(json.loads(json.dumps(config.to_dict(), allow_nan=False))) == config


def test_a_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        QUICK.alpha = 0.5


def test_paper_settings():
    config = TracConfig.paper("BallRun", 20, seed=10)
    assert (config.alpha, config.gamma, config.eta, config.top, config.bottom) == (0.2, 0.99, 0.25, 0.5, 0.0)
    assert (config.batch_size, config.bc_steps, config.steps, config.segment_ratio) == (96, 30_000, 100_000, 1.0)
    assert (config.sampling, config.learning_rate, config.lr_multiplier, config.warmup_steps) == (
        "released",
        1e-4,
        0.1,
        10_000,
    )
    assert TracConfig.paper("easydense", 10).steps == 200_000
    assert TracConfig.paper("PointButton1", 20).alpha == 0.1
    with pytest.raises(ConfigError, match="does not print its segment ratio for CarRun"):
        TracConfig.paper("CarRun", 20)
    assert TracConfig.paper("CarRun", 20, segment_ratio=0.5).segment_ratio == 0.5


def test_a_dictionary_without_a_limit_has_the_default():
    assert TracConfig.from_dict({"alpha": 0.5}) == TracConfig(alpha=0.5)
