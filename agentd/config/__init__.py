"""Settings: their types, the files they come from, and errors that name the setting."""
