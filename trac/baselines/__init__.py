"""Methods that TraC is compared with; each has the signature of `trac.train`.

A method is imported from its module, which leaves the others unloaded: `from trac.baselines.cpq import CPQConfig, cpq`.
"""

from trac.baselines.bc import bc_all, bc_safe

__all__ = ["bc_all", "bc_safe"]
