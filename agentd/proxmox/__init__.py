"""The client of the Proxmox VE API."""
