"""Training: configuration, the trainer and its callbacks, history, checkpoints."""
