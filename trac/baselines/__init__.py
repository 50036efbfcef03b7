"""Methods that TraC is compared with; an offline one is called like `trac.train`, with a config of its own.

A method is imported from its module, which leaves the others unloaded: `from trac.baselines.cpq import CPQConfig, cpq`.
"""

from trac.baselines.bc import bc_all, bc_safe

__all__ = ["bc_all", "bc_safe"]
