"""Pictures of training runs."""

from .curves import plot_history

__all__ = ["plot_history"]
