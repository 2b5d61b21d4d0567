"""The cluster simulator: drives quorumcache.core and quorumcache.wire on virtual time.

One seed decides everything. Never imports quorumcache.net, client or node, and nothing shipped imports this.

    run = sim.run(sim.SimConfig(nodes=4, f=1), seed=7)
    run.violations                                   empty, one hopes
    run.ops, run.messages, run.faults, run.states    pandas DataFrames, made when asked for
    run.plot_latency(), run.plot_messages(), run.plot_topology()
    sim.sweep({"nodes": [4, 7]}, seeds=range(20))    many runs, one DataFrame

What many seeds need and no more, as plain lists: `sim.results.run`. See docs/simulator.md.
"""

from sim.results import Run
from sim.settings import BadSetting, SimConfig
from sim.study import Study, run
from sim.sweep import sweep

__all__ = ["BadSetting", "Run", "SimConfig", "Study", "run", "sweep"]
