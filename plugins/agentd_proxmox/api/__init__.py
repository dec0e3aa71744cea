"""Tools that call any method of the Proxmox API, and the checks that they apply."""
