"""Daemons and sandboxes to measure, and the taking of samples."""

from bench.figures import FAILURES, timed

SHAPE = {"image": "tiny", "resources": {"cpus": 1, "memory": 512, "storage": 10}}
MIB = 1 << 20


class Bench:
    def __init__(self, quick, results):
        self.quick, self.results, self.daemons = quick, results, []

    def count(self, full, quick):
        return quick if self.quick else full

    def daemon(self, **settings):
        from harness.daemon import Daemon

        defaults = {
            "log": {"level": "info"},
            "limits": {"disk_reserve_mib": 512, "memory_reserve_mib": 256},
            "pool": {"size": 0},
        }
        for section, values in settings.items():
            defaults.setdefault(section, {}).update(values)
        daemon = Daemon(defaults).start()
        self.daemons.append(daemon)
        return daemon

    def stop(self, daemon):
        daemon.close()
        self.daemons.remove(daemon)

    def close(self):
        for daemon in list(self.daemons):
            self.stop(daemon)

    def create(self, api, **fields):
        from harness.client import Box

        answer = api.post("/v1/sandboxes/create", {**SHAPE, **fields}, timeout=300)
        if answer.status != 201:
            raise RuntimeError(f"create answered {answer}")
        return Box(api, answer.json)

    def warm(self, daemon, **fields):
        """The template is there afterwards, and once restored, so that what is measured is the steady state."""
        for _ in range(2):
            self.create(daemon.api(), **fields).remove()

    def warm_restore(self, api, box):
        """The same for restores, which have a template of their own."""
        made = box.snapshot()
        api.restore(made["id"]).remove()
        api.forget_snapshot(made["id"])

    def attempt(self, what, work):
        """(milliseconds, what work gave), or None for a failure, which is told."""
        try:
            return timed(work)
        except FAILURES as error:
            self.results.note(f"{what}: {str(error)[:200]}")
            return None

    def sample(self, group, what, count, work, after=None, **more):
        """Does work count times, and after(what it gave) outside of the measurement; the row."""
        times, failed = [], 0
        for _ in range(count):
            done = self.attempt(what, work)
            if done is None:
                failed += 1
                continue
            times.append(done[0])
            if after:
                after(done[1])
        return self.results.add(group, what, times, failed=failed, **more)
