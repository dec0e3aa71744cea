"""Tools that call any method of the Proxmox API, and the tables that decide about them."""
