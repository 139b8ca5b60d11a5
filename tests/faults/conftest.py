"""Tests of faults: processes, disks and networks that fail, with the real program on the real kernel.

What they leave to others: faults inside one process's logic, and rare orders of events (the
simulator finds those by the thousand).
"""
