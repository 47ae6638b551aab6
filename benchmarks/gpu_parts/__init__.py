"""The parts of `python -m benchmarks.gpu`, a file each, with a function `run`.

Each runs in a process of its own (`__main__.py`) and writes records; `device.py` says what they run
on. On the CPU every part is small, on one thread, to try the part itself.
"""
