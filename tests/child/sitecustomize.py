"""Runs first in every daemon that a test starts: a call that blocks the event loop is an error there too."""

import os

if os.environ.get("AGENTD_TEST_BLOCKBUSTER"):
    from blockbuster import BlockBuster

    blockbuster = BlockBuster()
    # Coverage guards its data by a lock of its own, which it takes wherever a new thread or file begins.
    blockbuster.functions["threading.Lock.acquire"].can_block_in("coverage/collector.py", "lock_data")
    blockbuster.activate()
