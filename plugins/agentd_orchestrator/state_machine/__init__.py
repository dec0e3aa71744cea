"""The state machine of a workflow: pure functions from a state and an input to the next state and its messages."""
