"""The version of this distribution, where every layer may read it."""

__version__ = "0.1.0"
