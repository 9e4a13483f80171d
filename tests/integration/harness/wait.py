"""Waiting for a condition, with a bound."""

import time

# Everything here is slow under emulation with sanitizers; bounds are against hangs alone.
PATIENCE = 60


class TimeIsOver(AssertionError):
    pass


def wait_until(condition, what, seconds=PATIENCE, every=0.05):
    """Calls condition() until it is true and returns what it gave. `what` says what was waited for."""
    end = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > end:
            raise TimeIsOver(f"{what}: not within {seconds} s (last: {result!r})")
        time.sleep(every)
