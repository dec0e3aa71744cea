"""Commands for what is stored: alerts, audit, dead letters, and the export of them all."""
