"""What it was measured on."""

import datetime
import os
import platform
import re
import subprocess
from pathlib import Path


def read(path):
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def output(*command, **options):
    return subprocess.run(command, capture_output=True, check=False, **options).stdout.decode().strip()


def describe(health, root):
    model = re.search(r"model name\s*: (.*)", read("/proc/cpuinfo"))
    memory = re.search(r"MemTotal:\s+(\d+)", read("/proc/meminfo"))
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": model.group(1) if model else platform.processor(),
        "processors": os.cpu_count(),
        "memory_mib": int(memory.group(1)) // 1024 if memory else 0,
        "kernel": platform.release(),
        "file_system": output("stat", "-f", "-c", "%T", "/var/tmp"),
        "qemu": output("qemu-system-x86_64", "--version").split("\n")[0],
        "acceleration": health.get("acceleration"),
        "commit": output("git", "-c", "safe.directory=*", "rev-parse", "--short", "HEAD", cwd=root),
        "load_before": os.getloadavg()[0],
    }


def rollup(pid):
    """(Pss, private) of a process in MiB."""
    figure = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB", read(f"/proc/{pid}/smaps_rollup"), re.M)}
    return figure["Pss"] / 1024, (figure["Private_Clean"] + figure["Private_Dirty"]) / 1024
