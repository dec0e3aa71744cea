"""The state machine of a workflow: pure functions from state and input to state."""
