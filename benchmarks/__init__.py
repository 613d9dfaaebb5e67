"""Measures what copick promises about speed, side by side with peers, in one run on one machine.

python -m benchmarks                 everything, about five minutes on two cores
python -m benchmarks --only patch    one row
python -m benchmarks --quick         every row, tiny: checks that the benchmarks work, not how fast copick is

    workloads.py    what is read: volumes, patches, sizes
    contenders.py   who reads it: copick, NumPy in RAM, zarr-python, tensorstore, zarrs
    measure.py      rounds in which contenders take turns, and their medians
    warm.py, cold.py, processes.py, bookkeeping.py, startup.py    the rows
    report.py       goals, tables, and the results as JSON

Absolute times depend on the machine and on who else uses it. Goals are ratios between contenders that took turns, round by round.
"""
