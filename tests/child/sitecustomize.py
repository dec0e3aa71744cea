"""Runs first in every daemon that a test starts: a call that blocks the event loop is an error there too."""

import os

if os.environ.get("AGENTD_TEST_BLOCKBUSTER"):
    from blockbuster import BlockBuster

    BlockBuster().activate()
