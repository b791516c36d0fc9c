"""What the programs of this project share: settings, the course of a stage, networks, pictures.

Every stage is a program that trains or makes something in a folder of its own, ``training.output_dir``/STAGE, and ends
by writing ``results.json`` there. What is in it is what :mod:`report` shows, and that it is there tells
:mod:`run_all` that the stage is done.
"""
