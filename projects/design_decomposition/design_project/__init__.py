"""What the programs of this project share: settings, the course of a stage, networks, pictures.

Every stage is a program that trains or makes something in a folder of its own, ``training.output_dir``/STAGE, and ends
by writing ``results.json`` there, last of all: that it is there tells ``run_all.py`` that the stage is done, and what
is in it is what ``report.py`` shows:

- ``stage``, and ``measured_on``: on what its figures are measured, in words
- ``figures``: numbers by name
- ``criteria``: a list of what :meth:`.stages.Criterion.judged` gives
- ``pictures`` (if any): captions by file name in the stage's folder
- ``tables`` (if any): a list of ``{"title", "columns", "rows"}``
"""
