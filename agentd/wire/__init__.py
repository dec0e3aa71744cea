"""Messages, their encoding, and the subjects on which they are sent."""
