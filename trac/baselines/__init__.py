"""Methods that TraC is compared with; each has the signature of `trac.train`.

A method is imported from its module, which leaves the others unloaded: `from trac.baselines.cpq import CPQConfig, cpq`.
"""

from importlib import import_module

from trac.baselines.bc import bc_all, bc_safe

# By a method's name, which its module and its training function have, too: the class of its runs.
METHODS = {
    **{"bcq_lag": "BCQLag", "bear_lag": "BEARLag", "cdt": "CDT", "coptidice": "COptiDICE", "cpq": "CPQ"},
    **{"ppo_lag": "PPOLag", "sac_lag": "SACLag"},  # online
}


def learner_of(algorithm: str):
    """The class of a method's runs, of `trac.baselines.learner.Learner` or `trac.baselines.online.Online`."""
    return getattr(import_module(f"trac.baselines.{algorithm}"), METHODS[algorithm])


__all__ = ["METHODS", "bc_all", "bc_safe", "learner_of"]
