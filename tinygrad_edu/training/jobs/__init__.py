"""Whole runs: from settings to a folder with a trained model, figures and pictures; and from such a folder to use."""

from .evaluate import evaluate_program, generate_program
from .job import Job, job_class
from .train import train_program

__all__ = ["Job", "evaluate_program", "generate_program", "job_class", "train_program"]
