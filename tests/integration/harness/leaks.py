"""Counts of everything that sandboxes are made of, to be equal before and after."""

import os
import re
import subprocess
from pathlib import Path

from harness.daemon import descendants, name_of
from harness.wait import TimeIsOver, wait_until


def links():
    done = subprocess.run(["ip", "-o", "link"], capture_output=True, check=True, stdin=subprocess.DEVNULL)
    return set(re.findall(r"^\d+: ([^:@]+)", done.stdout.decode(), re.M))


def rule_tables():
    done = subprocess.run(["nft", "list", "tables"], capture_output=True, check=False, stdin=subprocess.DEVNULL)
    return set(done.stdout.decode().split("\n"))


def cgroup_parents(daemon):
    """The folders below which this daemon's VMs have their cgroups, found by looking at a running VM."""
    mounts = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, rest = line.split(" - ")
        if rest.split()[0] in ("cgroup", "cgroup2"):
            mounts.append((rest.split()[0], rest.split()[2].split(","), fields.split()[4]))
    parents = set()
    for pid in daemon.vms():
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if "akira" not in path:
                continue
            for kind, options, point in mounts:
                if (kind == "cgroup2" and not controllers) or (controllers and set(controllers.split(",")) & set(options)):
                    folder = Path(point + path)
                    while "akira" not in folder.name and "akira" in str(folder):
                        folder = folder.parent
                    while "akira" in str(folder.parent):
                        folder = folder.parent
                    parents.add(folder)
    return parents


class Counts:
    """Begin while at least one sandbox runs, so that the cgroups can be found."""

    def __init__(self, daemon):
        self.daemon = daemon
        self.parents = cgroup_parents(daemon)

    def take(self):
        daemon = self.daemon
        below = descendants(daemon.pid)
        names = {}
        for pid in below:
            names[name_of(pid)] = names.get(name_of(pid), 0) + 1
        mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(daemon.root) in line]
        counts = {f"processes {name}": number for name, number in names.items()}
        counts["threads"] = len(os.listdir(f"/proc/{daemon.pid}/task"))
        counts["descriptors"] = len(os.listdir(f"/proc/{daemon.pid}/fd"))
        counts["mounts"] = len(mounts)
        counts["links"] = len([name for name in links() if self.tag and self.tag in name])
        counts["rule tables"] = len([name for name in rule_tables() if self.tag and self.tag in name])
        counts["cgroups"] = sum(1 for parent in self.parents for _ in parent.rglob("cgroup.procs"))
        counts["files of run_dir"] = sum(len(files) + len(folders) for _, folders, files in os.walk(daemon.run))
        counts["files of data_dir"] = self.data_files()
        for pid in below:
            if name_of(pid).startswith("akira-launch"):
                counts["descriptors of akira-launch"] = len(os.listdir(f"/proc/{pid}/fd"))
        return counts

    @property
    def tag(self):
        for parent in self.parents:
            match = re.search(r"akira-(\w+)", str(parent))
            if match:
                return match.group(1)
        return None

    def data_files(self):
        """Without the database's own side files, which come and go."""
        return sum(
            1
            for _, folders, files in os.walk(self.daemon.data)
            for name in files + folders
            if not name.startswith("akira.db")
        )

    def settle(self, before, seconds=30):
        """Waits until every count is as before; what differs otherwise."""

        def same():
            self.after = self.take()
            return all(self.after.get(name, 0) <= before.get(name, 0) for name in self.after)

        try:
            wait_until(same, "everything is as before", seconds, 0.2)
        except TimeIsOver:
            more = {n: (before.get(n, 0), v) for n, v in self.after.items() if v > before.get(n, 0)}
            raise AssertionError(f"left behind (before, after): {more}") from None
