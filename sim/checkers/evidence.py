"""No false accusation (protocol 5.7): evidence convicts only the adversary's writers and nodes, and it verifies."""

from __future__ import annotations

from quorumcache.core.evidence import proves
from quorumcache.core.model import Malformed
from sim.checkers.base import Checker


class NoFalseAccusation(Checker):
    """Looks at the proofs that correct nodes gathered, at the end."""

    name = "no false accusation"

    def finished(self) -> None:
        """Verify each proof, and who is convicted."""
        evil_nodes = {p.key.public for p in self.view.nodes if p.is_byzantine}
        for process in self.view.nodes:
            if process.is_byzantine:
                continue
            for proof in process.node.evidence:
                try:
                    verdict = proves(proof, process.node.verifier)
                except Malformed as fault:
                    self.fail(f"node {process.number} keeps a proof that proves nothing: {fault}")
                    return
                if verdict.key not in (self.view.evil_writers if verdict.role == "writer" else evil_nodes):
                    key = verdict.key.hex()[:16]
                    self.fail(f"node {process.number} has proof against the correct {verdict.role} {key}")
                    return
