"""Commands that set a machine or a demo up: configuration, checks, NATS permissions, `up` and `demo`."""
