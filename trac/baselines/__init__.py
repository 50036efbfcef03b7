"""Methods that TraC is compared with; each has the signature of `trac.train`."""

from trac.baselines.bc import bc_all, bc_safe

__all__ = ["bc_all", "bc_safe"]
