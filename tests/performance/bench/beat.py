"""Runs in a guest: writes all the time, and tells the longest it could not (milliseconds), once /workspace/stop is there."""

import os
import time

fd = os.open("/workspace/beat", os.O_RDWR | os.O_CREAT)
last, worst = time.monotonic(), 0
print("begin", flush=True)
while not os.path.exists("/workspace/stop"):
    os.pwrite(fd, b"x", 0)
    os.ftruncate(fd, 1)
    now = time.monotonic()
    worst = max(worst, now - last)
    last = now
    time.sleep(0.001)
print("worst", worst * 1000, flush=True)
