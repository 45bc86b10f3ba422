"""Every random draw comes from (run seed, identity, purpose), never from a position in a batch or a rank."""

import hashlib

SEEDS = 2**63
"""How many seeds there are: those that fit into signed 64-bit columns. A seed divided by it lies in [0, 1)."""


def derive_seed(run_seed: int, identity: str, purpose: str) -> int:
    """Return a 63-bit seed that depends on its three arguments alone.

    `identity` is what the draw belongs to (a sample id, a step), `purpose` what it is for ("generate", "noise").
    """
    digest = hashlib.sha256(f"{run_seed}\x1f{identity}\x1f{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
