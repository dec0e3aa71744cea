"""What the monitor reads of the Proxmox cluster: the readings, their metrics, and the collector."""
