"""The state machine of a workflow and the process that carries out its decisions."""
