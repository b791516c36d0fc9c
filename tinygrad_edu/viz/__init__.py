"""Pictures of training runs."""

from .attention import plot_attention
from .comparison import plot_comparison
from .curves import plot_history, plot_learning_rate

__all__ = ["plot_attention", "plot_comparison", "plot_history", "plot_learning_rate"]
