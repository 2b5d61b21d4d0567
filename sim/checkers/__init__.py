"""The properties that a run is held against: one checker per file, all of them here in a list."""

from __future__ import annotations

from typing import Final

from sim.checkers.ballots import NoForgedBallots
from sim.checkers.base import Checker, View
from sim.checkers.confirmed import Confirmed
from sim.checkers.convergence import Convergence
from sim.checkers.directdurability import DirectDurability
from sim.checkers.directfreshness import DirectFreshness
from sim.checkers.directinstep import DirectInStep
from sim.checkers.directintegrity import DirectIntegrity
from sim.checkers.directliveness import DirectLiveness
from sim.checkers.durability import Durability
from sim.checkers.evidence import NoFalseAccusation
from sim.checkers.exactness import Exactness
from sim.checkers.floors import Floors
from sim.checkers.forwarded import Forwarded
from sim.checkers.freshness import Freshness
from sim.checkers.instep import InStep
from sim.checkers.integrity import Integrity
from sim.checkers.keyconvergence import ConvergedKeys
from sim.checkers.keydurability import DurableKeys
from sim.checkers.keyintegrity import WholeKeys
from sim.checkers.lasting import Lasting
from sim.checkers.linearizability import Linearizability
from sim.checkers.liveness import Liveness
from sim.checkers.merged import Counters, HonestVectors, ShownSiblings
from sim.checkers.oneepoch import OneEpoch
from sim.checkers.ranks import FreshKeys
from sim.checkers.revocation import Revocation
from sim.checkers.signatures import NoProofPossible
from sim.checkers.stamps import OneValuePerStamp

ALL: Final[tuple[type[Checker], ...]] = (
    Integrity,
    OneValuePerStamp,
    Freshness,
    Revocation,
    Durability,
    Floors,
    Liveness,
    Convergence,
    OneEpoch,
    NoFalseAccusation,
    NoProofPossible,
    Linearizability,
    WholeKeys,
    FreshKeys,
    DurableKeys,
    Confirmed,
    Counters,
    ShownSiblings,
    HonestVectors,
    ConvergedKeys,
    InStep,
    Lasting,
    Exactness,
    NoForgedBallots,
    DirectIntegrity,
    DirectDurability,
    Forwarded,
    DirectInStep,
    DirectFreshness,
    DirectLiveness,
)

__all__ = ["ALL", "Checker", "View"]
