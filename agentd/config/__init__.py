"""Settings: their types, their sources, and errors that name the setting."""
