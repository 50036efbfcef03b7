"""Methods that TraC is compared with; each has the signature of `trac.train`."""

from trac.baselines.bc import bc_all, bc_safe
from trac.baselines.bcq_lag import BCQLag, BCQLagConfig, bcq_lag
from trac.baselines.bear_lag import BEARLag, BEARLagConfig, bear_lag
from trac.baselines.cdt import CDT, CDTConfig, cdt
from trac.baselines.common import Learner
from trac.baselines.coptidice import COptiDICE, COptiDICEConfig, coptidice
from trac.baselines.cpq import CPQ, CPQConfig, cpq

METHODS: dict[str, type[Learner]] = {m.algorithm: m for m in (BCQLag, BEARLag, CDT, COptiDICE, CPQ)}

__all__ = [
    "METHODS",
    "BCQLagConfig",
    "BEARLagConfig",
    "CDTConfig",
    "COptiDICEConfig",
    "CPQConfig",
    "bc_all",
    "bc_safe",
    "bcq_lag",
    "bear_lag",
    "cdt",
    "coptidice",
    "cpq",
]
