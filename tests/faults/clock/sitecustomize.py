"""A clock that can be set: Python imports this when it starts with this folder in PYTHONPATH.

`time.time()` and `time.time_ns()` are moved by the seconds in the file that the environment
variable `CLOCK_OFFSET` names. The monotonic clock goes on, as it does when the clock of a machine
is set. (The library libfaketime would do the same for every program, but makes `time.sleep` of
Python 3.11 fail.)
"""

import os
import time

_time, _time_ns = time.time, time.time_ns


def _offset() -> int:
    with open(os.environ["CLOCK_OFFSET"]) as file:
        return int(file.read() or 0)


if "CLOCK_OFFSET" in os.environ:  # and not where pytest looks for doctests
    time.time = lambda: _time() + _offset()
    time.time_ns = lambda: _time_ns() + 10**9 * _offset()
