"""No false accusation (protocol 5.7): evidence convicts only writers of the adversary, and it verifies."""

from __future__ import annotations

from quorumcache.core.evidence import verify_equivocation
from quorumcache.core.model import Malformed
from sim.checkers.base import Checker


class NoFalseAccusation(Checker):
    """Looks at the proofs that correct nodes gathered, at the end."""

    name = "no false accusation"

    def finished(self) -> None:
        """Verify each proof, and who is convicted."""
        for process in self.view.nodes:
            if process.is_byzantine:
                continue
            for proof in process.node.evidence:
                try:
                    writer = verify_equivocation(proof, process.node.verifier)
                except Malformed as fault:
                    self.fail(f"node {process.index} keeps a proof that proves nothing: {fault}")
                    return
                if writer not in self.view.evil_writers:
                    self.fail(f"node {process.index} has proof against the correct writer {writer.hex()[:16]}")
                    return
