"""The cluster simulator: drives quorumcache.core and quorumcache.wire on virtual time.

One seed decides everything. Never imports quorumcache.net, client or node, and nothing shipped imports this.

    run = sim.run(sim.SimConfig(nodes=4, f=1), seed=7)
    run.ops, run.messages, run.faults, run.states    plain lists
    run.violations                                   empty, one hopes
"""

from sim.results import Run, run
from sim.settings import BadSetting, SimConfig

__all__ = ["BadSetting", "Run", "SimConfig", "run"]
