"""``python -m tinygrad_edu`` is the command ``tinygrad-edu``."""

from .cli import main

main()
