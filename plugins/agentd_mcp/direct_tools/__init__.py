"""Tools that the bridge runs itself, as a client of the network: workflows, agents, the freeze."""
