"""How long a VM process takes from the request to its exec, and from the kill to the end that is told (milliseconds)."""
import sys
import time

from jail import Jail


def report(what, times):
    times.sort()
    print(f"{what}: p50 {times[len(times) // 2]:.2f} ms, p99 {times[len(times) * 99 // 100]:.2f} ms, n {len(times)}")


def main(count=300):
    starts, ends = [], []
    with Jail() as jail:
        for _ in range(count):
            began = time.perf_counter()
            vm, _ = jail.start("stay")
            starts.append((time.perf_counter() - began) * 1e3)
            jail.read(vm)
            began = time.perf_counter()
            jail.command("kill", vm)
            jail.wait(vm)
            ends.append((time.perf_counter() - began) * 1e3)
    report("request to exec in the jail", starts)
    report("kill to everything gone", ends)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
