"""Messages, their encoding, and the subjects that they are sent on."""
