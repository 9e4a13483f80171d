"""Starts and stops a real akirad with folders, ports, user ids and addresses of its own."""

import configparser
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

from harness.client import Api
from harness.wait import TimeIsOver, wait_until

ROOT = Path(__file__).resolve().parents[3]
BUILD = Path(os.environ.get("AKIRA_BUILD") or ROOT / "build-test")
CACHE = Path(os.environ.get("AKIRA_TEST_CACHE") or os.environ.get("AKIRA_CACHE") or "/var/cache/akira")
TEMPORARY = Path(os.environ.get("AKIRA_TEST_TMP") or "/var/tmp")

# Every daemon that this process started, so that each test can look at all that ran.
running = []
numbers = itertools.count(os.getpid() % 24)


def program(name):
    """Of the build under test; AKIRA_TEST_DAEMON names another file for akirad itself."""
    if name == "akirad" and os.environ.get("AKIRA_TEST_DAEMON"):
        return Path(os.environ["AKIRA_TEST_DAEMON"])
    for path in (BUILD / "src/daemon" / name, BUILD / "src/cli" / name, BUILD / "src/launch" / name, BUILD / "src" / name):
        if path.is_file():
            return path
    found = [path for path in BUILD.rglob(name) if path.is_file() and os.access(path, os.X_OK)]
    assert found, f"{name} is not in {BUILD}: run tools/test"
    return found[0]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Daemon:
    """One akirad. `settings` are sections of its configuration: {"pool": {"size": 0}}."""

    def __init__(self, settings=None, environment=None, data_dir=None, cache_dir=None):
        self.root = Path(tempfile.mkdtemp(prefix="akira-test-", dir=TEMPORARY))
        self.root.chmod(0o755)
        self.data = Path(data_dir) if data_dir else self.root / "data"
        self.run = self.root / "run"
        self.reports = self.root / "reports"
        self.cache = Path(cache_dir) if cache_dir else CACHE
        self.log = self.root / "log"
        self.port, self.metrics_port = free_port(), free_port()
        self.environment = environment or {}
        self.process = None
        self.launchers = []
        self.expect_reports = False
        self.seen = 0
        for folder in (self.data, self.run, self.reports):
            folder.mkdir(parents=True, exist_ok=True)
        # akirad writes there after it has dropped its privileges.
        self.reports.chmod(0o1777)
        self.config = self.root / "settings.conf"
        number = next(numbers)
        self.settings = {
            "server": {"listen": f"127.0.0.1:{self.port}", "metrics_listen": f"127.0.0.1:{self.metrics_port}"},
            "paths": {"data_dir": self.data, "cache_dir": self.cache, "run_dir": self.run},
            "engine": {"acceleration": os.environ.get("AKIRA_TEST_ACCELERATION", "auto")},
            "pool": {"size": 0},
            "limits": {"disk_reserve_mib": 512},
            "user": {"user": "nobody", "group": "nogroup", "vm_uid_first": 1000000 + 4096 * number, "vm_uid_count": 4096},
            "network": {"net_base": f"10.{200 + number % 50}.0.0"},
            "log": {"format": "json", "level": "debug"},
        }
        for section, values in (settings or {}).items():
            self.settings.setdefault(section, {}).update(values)
        self.write_config()

    def write_config(self):
        parser = configparser.ConfigParser(interpolation=None)
        parser.optionxform = str
        for section, values in self.settings.items():
            parser[section] = {key: str(value) for key, value in values.items() if value is not None}
        with open(self.config, "w", encoding="utf-8") as file:
            parser.write(file)

    def child_environment(self):
        common = f"log_path={self.reports}/report:exitcode=99:disable_coredump=0:handle_abort=1:print_stacktrace=1"
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LC_ALL": "C.UTF-8",
            "ASAN_OPTIONS": f"{common}:detect_leaks=1:detect_stack_use_after_return=0:allocator_may_return_null=1",
            "UBSAN_OPTIONS": f"{common}:halt_on_error=0",
            "LSAN_OPTIONS": f"suppressions={Path(__file__).parent}/lsan.supp:print_suppressions=0",
            **self.environment,
        }

    # ---- running ----

    def spawn(self, *arguments):
        """Starts the process and returns at once. A launcher of a run that was killed may need a moment to end."""
        wait_until(lambda: not any(map(is_running, self.launchers)), "the launcher of the last run ended", 60)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [program("akirad"), "--config", self.config, *arguments],
                env=self.child_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if self not in running:
            running.append(self)
        return self

    def start(self, *arguments, seconds=90):
        begin = self.log.stat().st_size if self.log.exists() else 0
        self.spawn(*arguments)

        def answers():
            assert self.process.poll() is None, f"akirad ended with {self.process.poll()} at its start\n{self.tail()}"
            try:
                return self.api().get("/healthz", key=None, timeout=10).status == 200
            except OSError:
                return False

        try:
            wait_until(answers, "akirad answers", seconds)
            wait_until(lambda: self.events("ready", begin), "akirad logs that it is ready", 10)
        except TimeIsOver as error:
            raise TimeIsOver(f"{error}\n{self.tail()}") from None
        self.launchers = [pid for pid in descendants(self.pid) if name_of(pid) == "akira-launch"]
        return self

    @property
    def alive(self):
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self):
        return self.process.pid

    def stop(self, seconds=60):
        """SIGTERM; the exit status."""
        if self.process is None:
            return None
        if self.alive:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            stacks = self.stacks()
            self.kill()
            raise TimeIsOver(f"akirad does not end {seconds} s after SIGTERM\n{stacks}\n{self.tail()}") from None
        return code

    def kill(self):
        """kill -9, as a crash would; waits until what it ran has gone too, as the launcher ends it."""
        children = descendants(self.pid)
        if self.alive:
            self.process.kill()
        self.process.wait(30)
        wait_until(lambda: not [pid for pid in children if is_running(pid)], "the launcher ended what akirad ran", 60)

    def close(self):
        """Stops it and removes its folders. For the end of a test; never raises for a daemon that is gone."""
        try:
            if self.alive:
                self.stop()
        finally:
            if self.alive:
                self.kill()
            if self in running:
                self.check_reports()
                running.remove(self)
            if os.environ.get("AKIRA_TEST_KEEP") is None:
                shutil.rmtree(self.root, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # ---- what it says ----

    @property
    def key(self):
        return self.credentials()["api_key"]

    def credentials(self):
        text = (self.data / "credentials").read_text(encoding="utf-8")
        return dict(re.findall(r"^\s*(\w+)\s*=\s*(\S+)\s*$", text, re.M))

    def api(self, key=None):
        if key is None and (self.data / "credentials").exists():
            key = self.key
        return Api("127.0.0.1", self.port, key)

    def metrics(self, key=None):
        """The client of the metrics' listener."""
        client = Api("127.0.0.1", self.metrics_port, key)
        client.compared = False
        return client

    def tail(self, lines=30):
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        # Good requests say nothing about what went wrong.
        dull = ('"event":"host"', '"event":"engine_is_no')
        kept = [line for line in text.splitlines() if not any(word in line for word in dull)]
        kept = [line for line in kept if '"http_request"' not in line or '"status":"2' not in line]
        return "\n".join(kept[-lines:])

    def log_lines(self, begin=0):
        with open(self.log, "rb") as file:
            file.seek(begin)
            return file.read().decode("utf-8", "replace").splitlines()

    def events(self, name=None, begin=0):
        """Log lines as objects; of one event, or all."""
        found = []
        for line in self.log_lines(begin):
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and name in (None, entry.get("event")):
                found.append(entry)
        return found

    def check_reports(self):
        """Fails with what the sanitizers wrote since the last look."""
        texts = []
        files = sorted(self.reports.iterdir()) if self.reports.exists() else []
        for file in files[self.seen :]:
            texts.append(f"{file.name}:\n{file.read_text(encoding='utf-8', errors='replace')[:20000]}")
        self.seen = len(files)
        assert not texts or self.expect_reports, "sanitizer reports:\n" + "\n".join(texts)

    def stacks(self):
        if shutil.which("gdb") is None:
            return ""
        command = ["gdb", "-p", str(self.pid), "-batch", "-ex", "thread apply all bt 12"]
        try:
            done = subprocess.run(command, capture_output=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            return "(no stacks: gdb hangs)"
        return done.stdout.decode("utf-8", "replace")[-12000:]

    # ---- what it runs ----

    def vms(self):
        """Ids of the VM processes."""
        return [pid for pid in descendants(self.pid) if "qemu-system" in name_of(pid)]

    def vm_of(self, box):
        """The VM process of a sandbox: the one whose cgroup or arguments name it, or the only one there is."""
        pids = self.vms()
        for pid in pids:
            for source in ("cgroup", "cmdline"):
                try:
                    if box.id.encode() in Path(f"/proc/{pid}/{source}").read_bytes():
                        return pid
                except OSError:
                    pass
        assert len(pids) == 1, f"which of {pids} is {box.id}?"
        return pids[0]

    def memory(self, what="VmRSS"):
        """Bytes of akirad itself."""
        match = re.search(rf"^{what}:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text(), re.M)
        return int(match.group(1)) * 1024

    def admin(self, *arguments, seconds=60):
        """akirad admin …; (exit code, output)."""
        command = [program("akirad"), "--config", self.config, "admin", *arguments]
        done = subprocess.run(
            command, env=self.child_environment(), stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False
        )
        return done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace")


def name_of(pid):
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        return ""


def is_running(pid):
    """True unless it has ended (a zombie has)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat[stat.rindex(")") + 2] not in "ZX"


def descendants(of):
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path("/proc", entry, "stat").read_text()
            except OSError:
                continue
            children.setdefault(int(stat[stat.rindex(")") + 2 :].split()[1]), []).append(int(entry))
    found, todo = [], [of]
    while todo:
        for child in children.get(todo.pop(), []):
            found.append(child)
            todo.append(child)
    return found


def clean_up():
    """At the very end, whatever happened: nothing that we started runs on."""
    for daemon in list(running):
        try:
            daemon.close()
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            print(f"at the end: {error}")
            if daemon.alive:
                daemon.process.kill()
