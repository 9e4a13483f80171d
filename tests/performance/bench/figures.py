"""Samples and what is said of them."""

import subprocess
import time

# What a sample that did not succeed raises; the harness asserts what it expects.
FAILURES = (AssertionError, OSError, RuntimeError, ValueError, subprocess.SubprocessError)


def percentile(values, share):
    """Nearest rank: a value that was measured, never one in between."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-len(ordered) * share // 100) - 1))]


def timed(work):
    """(milliseconds, what work gave)."""
    begin = time.perf_counter()
    result = work()
    return (time.perf_counter() - begin) * 1000, result


class Results:
    def __init__(self):
        self.rows, self.notes, self.curves = [], [], {}

    def add(self, group, what, values, unit="ms", failed=0, **more):
        """A row. Without values it has a count of 0 and no figures: nothing is made up."""
        if not values:
            self.rows.append({"group": group, "what": what, "unit": unit, "count": 0, "failed": failed})
            self.note(f"{what}: none of {failed} succeeded")
            return None
        figures = {"p50": percentile(values, 50), "p99": percentile(values, 99), "max": max(values), "min": min(values)}
        return self.row(group, what, figures, unit, len(values), failed=failed, **more)

    def row(self, group, what, figures, unit, count, **more):
        row = {"group": group, "what": what, "unit": unit, "count": count, **figures, **more}
        self.rows.append(row)
        shown = [f"{figures[name]:>9.1f}" if name in figures else f"{'–':>9}" for name in ("p50", "p99", "max")]
        extra = "".join(f"  {name} {value}" for name, value in more.items() if name != "failed" or value)
        print(f"{group:<12} {what:<48} {' '.join(shown)} {unit:<6} {count:>6}{extra}", flush=True)
        return row

    def note(self, text):
        self.notes.append(text)
        print(f"             {text}", flush=True)

    def curve(self, plot, series, x, y):
        self.curves.setdefault(plot, {}).setdefault(series, []).append((x, y))
