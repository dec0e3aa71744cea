"""The cluster as a whole: inventory, pools, Ceph, usage and notifications."""
