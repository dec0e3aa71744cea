"""The guest agent of a VM: its tools, its answers, and the output of programs."""
