"""Weights by other libraries' names: a table for each architecture, used both ways, and the folders they lie in."""

from .folder import CONFIG, INDEX, WEIGHTS, open_folder, read_config, write_folder
from .published import EXCHANGES
from .table import Copy, Entry, Exchange, Layout, own_names

__all__ = [
    "CONFIG",
    "EXCHANGES",
    "INDEX",
    "WEIGHTS",
    "Copy",
    "Entry",
    "Exchange",
    "Layout",
    "open_folder",
    "own_names",
    "read_config",
    "write_folder",
]
