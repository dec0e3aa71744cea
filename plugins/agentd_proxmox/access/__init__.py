"""Users, groups, realms, roles, permissions and API tokens."""
