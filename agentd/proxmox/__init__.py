"""The client for the Proxmox VE API."""
