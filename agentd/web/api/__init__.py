"""The JSON API: what it reads, what it changes, and its OpenAPI document."""
