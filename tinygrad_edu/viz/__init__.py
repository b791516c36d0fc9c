"""Pictures of training runs."""

from .curves import plot_history, plot_learning_rate

__all__ = ["plot_history", "plot_learning_rate"]
