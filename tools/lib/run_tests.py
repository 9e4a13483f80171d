"""Prepares the sanitized build and the guest, runs the suites, sums up. Started by tools/test."""

import argparse
import concurrent.futures
import ctypes
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("AKIRA_BUILD") or ROOT / "build-test").resolve()
CACHE = Path(os.environ.get("AKIRA_CACHE") or "/var/cache/akira")
RESULTS = BUILD / "results"
PYTHON = "/usr/bin/python3"
LONG = bool(os.environ.get("AKIRA_TEST_LONG"))

SUITES = ("lint", "unit", "fuzz", "attack", "integration", "system")
# Seconds. Bounds against hangs, not expectations.
# Against hangs alone: a machine that does much else at the same time must not fail for it.
LIMITS = {"lint": 600, "unit": 600, "fuzz": 600, "attack": 900, "integration": 2400, "system": 900}
OPTIONS = ["-Dtests=true", "-Dfaults=true", "-Db_sanitize=address,undefined", "-Db_lundef=false"]

PR_SET_CHILD_SUBREAPER = 36
START = time.monotonic()
interruption = threading.Event()


def step(text):
    print(f"test: [{time.monotonic() - START:5.1f} s] {text}", flush=True)


# ---- what we start, we end ----


def descendants(of):
    """Ids of all processes below one, parents first."""
    children = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = Path("/proc", entry, "stat").read_text()
        except OSError:
            continue
        parent = int(stat[stat.rindex(")") + 2 :].split()[1])
        children.setdefault(parent, []).append(int(entry))
    found, todo = [], [of]
    while todo:
        for child in children.get(todo.pop(0), []):
            found.append(child)
            todo.append(child)
    return found


def reap():
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return
        except ChildProcessError:
            return


def send_all(number, pids):
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def stop_everything(grace=15):
    """Ends all that is left of what this run started: daemons get the time to tidy up, then all are killed."""
    reap()
    left = descendants(os.getpid())
    if not left:
        return
    # Those without a living parent among them are the tops; ending a daemon ends what is below it.
    send_all(signal.SIGTERM, [pid for pid in left if parent_of(pid) == os.getpid()])
    end = time.monotonic() + grace
    while descendants(os.getpid()) and time.monotonic() < end:
        reap()
        time.sleep(0.05)
    for _ in range(20):
        reap()
        left = descendants(os.getpid())
        if not left:
            return
        send_all(signal.SIGKILL, left)
        time.sleep(0.05)


def parent_of(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        return int(stat[stat.rindex(")") + 2 :].split()[1])
    except OSError:
        return 0


def interrupted(*_):
    """Threads wait for what we end here: they must not start the next, and nobody waits for them."""
    interruption.set()
    print("test: interrupted\n0 passed, 1 failed", flush=True)
    stop_everything()
    os._exit(1)


def run(command, log, limit, env=None, cwd=ROOT):
    """Runs a command with its output in a file. Its exit code, or None when the time was over."""
    if interruption.is_set():
        raise SystemExit(1)
    with open(log, "wb") as out:
        child = subprocess.Popen(
            command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
        try:
            return child.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGTERM)
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            return None


# ---- preparing ----


def prepare(what, command, limit, env=None):
    step(what)
    log = RESULTS / "prepare.log"
    code = run(command, log, limit, env)
    if code != 0:
        sys.stdout.write(tail(log, 60))
        why = "took too long" if code is None else f"ended with {code}"
        raise SystemExit(f"test: {what}: `{' '.join(map(str, command))}` {why}\n0 passed, 1 failed")


def build():
    if not (BUILD / "build.ninja").exists():
        prepare(f"configuring {BUILD.name}", ["meson", "setup", str(BUILD), *OPTIONS], 120)
    else:
        prepare("checking the configuration", ["meson", "configure", str(BUILD), *OPTIONS], 120)
    prepare("compiling with the sanitizers", ["ninja", "-C", str(BUILD)], 900)


def find_agent():
    """The static binary for the guest; the release build's, as the guest has no sanitizers."""
    for name in ("src/agent/akira-init", "akira-init"):
        if (BUILD / name).exists():
            return BUILD / name
    found = [path for path in BUILD.rglob("akira-init") if path.is_file()]
    if not found:
        raise SystemExit("test: the build made no akira-init\n0 passed, 1 failed")
    return found[0]


def copy_tree(source, target):
    """The same files in another folder. Not linked: akira-launch takes no file that has two names."""
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for file in source.iterdir():
        if file.is_file() and not file.name.startswith("."):
            subprocess.run(["cp", "--reflink=auto", "--sparse=always", str(file), str(fresh)], check=True)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)


def guest():
    """A cache folder for this agent alone, so that runs at the same time do not disturb one another."""
    kernel = CACHE / "kernel"
    if not (kernel / "minimal" / "release").exists() and not (kernel / "debian" / "release").exists():
        prepare("taking a guest kernel from Debian's package", ["tools/guest/debian-kernel"], 600)
    prepare("image tiny", ["images/build", "tiny"], 1200)
    agent = find_agent()
    digest = hashlib.sha256(agent.read_bytes()).hexdigest()[:16]
    cache = CACHE / "test" / digest
    cache.mkdir(parents=True, exist_ok=True)
    command = ["tools/guest/assemble", "--agent", str(agent), "--out", str(cache / "guest")]
    prepare("assembling the guest", command, 120)
    with open(cache / ".lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in ("tiny",):
            manifest, own = CACHE / "images" / name / "manifest.json", cache / "images" / name / "manifest.json"
            if not own.exists() or own.read_bytes() != manifest.read_bytes():
                copy_tree(CACHE / "images" / name, cache / "images" / name)
    os.utime(cache)
    forget_old(CACHE / "test", keep=6)
    return cache


def forget_old(folder, keep):
    old = sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    for path in old[:-keep]:
        if time.time() - path.stat().st_mtime > 3600:
            shutil.rmtree(path, ignore_errors=True)


# ---- the suites ----


class Suite:
    def __init__(self, name):
        self.name = name
        self.passed = self.failed = self.skipped = 0
        self.failures = []  # (title, text)
        self.seconds = 0.0

    def count(self, result, title="", text=""):
        if result == "passed":
            self.passed += 1
        elif result == "skipped":
            self.skipped += 1
        else:
            self.failed += 1
            self.failures.append((f"{self.name}: {title}", text))


def tail(path, lines):
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - 256 * 1024))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:]) + "\n"


def run_meson(suite, which, limit, env):
    """Tests that the build knows, of one suite. Fine when there are none."""
    listed = subprocess.run(
        ["meson", "introspect", "--tests", str(BUILD)], capture_output=True, check=True, stdin=subprocess.DEVNULL
    )
    tests = [test for test in json.loads(listed.stdout) if any(s.split(":")[-1] == which for s in test["suite"])]
    if not tests:
        return
    result = BUILD / "meson-logs" / f"testlog-{suite.name}.json"
    result.unlink(missing_ok=True)
    log = RESULTS / f"{suite.name}-meson.log"
    command = ["meson", "test", "-C", str(BUILD), "--no-rebuild", "--suite", which, "--num-processes", "2"]
    code = run([*command, "--logbase", f"testlog-{suite.name}", "--print-errorlogs"], log, limit, env)
    seen = 0
    try:
        for line in result.read_text(encoding="utf-8").splitlines():
            test = json.loads(line)
            seen += 1
            outcome = {"OK": "passed", "EXPECTEDFAIL": "passed", "SKIP": "skipped"}.get(test["result"], "failed")
            text = "\n".join((test.get("stdout", "") + "\n" + test.get("stderr", "")).splitlines()[-80:])
            suite.count(outcome, f"{test['name']} ({test['result']})", text)
    except (OSError, ValueError):
        pass
    if code is None or seen < len(tests) or (code != 0 and not suite.failed):
        why = f"ended with {code}" if code is not None else f"was stopped after {limit:.0f} s"
        suite.count("failed", f"meson test {why}, {seen} of {len(tests)} ran", tail(log, 60))


def run_pytest(suite, paths, limit, env, options, name=None):
    name = name or suite.name
    paths = [path for path in paths if path.exists()]
    if not paths:
        return
    result, log = RESULTS / f"{name}.xml", RESULTS / f"{name}.log"
    result.unlink(missing_ok=True)
    command = [PYTHON, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-ra", f"--rootdir={ROOT}/tests", "--durations=15", "--tb=short"]
    command += [f"--junitxml={result}", *options, *map(str, paths)]
    code = run(command, log, limit, env)
    if result.exists():
        for case in ElementTree.parse(result).getroot().iter("testcase"):
            read_case(suite, case)
    if code == 5 and options:
        return  # none selected by the options
    if code != 0 and not (code == 1 and suite.failed):
        why = f"ended with {code}" if code is not None else f"was stopped after {limit:.0f} s"
        suite.count("failed", f"pytest {why}", tail(log, 80))


def read_case(suite, case):
    title = f"{case.get('classname', '').split('.')[-1]}::{case.get('name')}"
    for bad in ("failure", "error"):
        element = case.find(bad)
        if element is not None:
            suite.count("failed", title, "\n".join((element.text or element.get("message") or "").splitlines()[-120:]))
            return
    suite.count("skipped" if case.find("skipped") is not None else "passed")


# Seconds that a module of the integration tests takes, roughly, where that is not the usual: to share them out evenly.
USUAL = 12
WEIGHTS = {
    "attack_guest": 117, "faults": 117, "clone": 97, "templates": 77, "restart": 71, "agent": 60, "pause": 46, "usage": 44,
    "storage": 40, "life": 35, "snapshots": 34, "execute": 33, "auth": 30, "leaks": 30, "audit_changes": 29, "files": 29,
    "stream": 22,
}


def weight(path):
    return WEIGHTS.get(path.stem.removeprefix("test_"), USUAL)


def run_integration(suite, limit, env, options):
    """Two at a time, as most of what a test does is to wait; then the document against all answers that were seen."""
    folder = ROOT / "tests/integration"
    units = [path for path in sorted(folder.glob("test_*.py")) if path.name != "test_openapi.py"]
    shares, sums = ([], []), [0, weight(folder / "agent")]
    for unit in sorted(units, key=lambda path: -weight(path)):
        least = sums.index(min(sums))
        shares[least].append(unit)
        sums[least] += weight(unit)
    seen = RESULTS / "answers.jsonl"
    seen.unlink(missing_ok=True)
    env = {**env, "AKIRA_TEST_ANSWERS": str(seen)}
    parts = [Suite(suite.name), Suite(suite.name)]

    def half(number):
        if number == 1:
            # By itself, as it has modules of the same names.
            run_pytest(parts[number], [folder / "agent"], limit, env, options, "integration-agent")
        run_pytest(parts[number], shares[number], limit, env, options, f"integration-{number + 1}")

    threads = [threading.Thread(target=half, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run_pytest(suite, [folder / "test_openapi.py"], 120, env, options, "integration-openapi")
    for part in parts:
        suite.passed += part.passed
        suite.failed += part.failed
        suite.skipped += part.skipped
        suite.failures += part.failures


def run_lint(suite, limit, env):
    log, result = RESULTS / "lint.log", RESULTS / "lint.json"
    result.unlink(missing_ok=True)
    code = run([str(ROOT / "tools/lint"), "--json", str(result)], log, limit, env)
    if result.exists():
        for name, entry in json.loads(result.read_text(encoding="utf-8")).items():
            text = "\n".join(entry["output"].splitlines()[:60])
            suite.count("passed" if entry["findings"] == 0 else "failed", f"{name}: {entry['findings']} findings", text)
    if code is None or (code != 0 and not suite.failed):
        suite.count("failed", "tools/lint " + ("took too long" if code is None else f"ended with {code}"), tail(log, 60))


def run_system(suite, limit, env):
    """The package and cgroup v2 in a whole Debian; tests/system/run says more."""
    log, result = RESULTS / "system.log", RESULTS / "system.xml"
    result.unlink(missing_ok=True)
    command = [str(ROOT / "tests/system/run"), "--build", str(BUILD), "--junitxml", str(result), "--log", str(RESULTS / "system-console.log")]
    code = run(command, log, limit, env)
    if result.exists():
        for case in ElementTree.parse(result).getroot().iter("testcase"):
            read_case(suite, case)
    if code is None or (code != 0 and not suite.failed):
        suite.count("failed", "tests/system/run " + ("took too long" if code is None else f"ended with {code}"), tail(log, 60))


def run_suite(name, env, arguments):
    suite, begin, limit = Suite(name), time.monotonic(), LIMITS[name] * (6 if LONG else 1)
    options = (["-k", arguments.keep] if arguments.keep else []) + (["--no-header"] if arguments.only else [])
    step(f"suite {name}")

    def left():
        return max(10, limit - (time.monotonic() - begin))

    def chosen(folder):
        return [folder / arguments.only] if arguments.only else [folder]

    if name == "lint":
        run_lint(suite, limit, env)
    elif name == "unit":
        run_meson(suite, "unit", left(), env)
        run_pytest(suite, [ROOT / "tests/test_architecture.py", ROOT / "tests/performance/test_plot.py"], left(), env, [])
    elif name == "fuzz":
        run_meson(suite, "fuzz", left(), env)
    elif name == "attack":
        if not arguments.only:
            run_meson(suite, "attack", left(), env)
        # Those that need programs of their own are run by meson.
        folders = [f for f in sorted((ROOT / "tests/attack").iterdir()) if list(f.glob("test_*.py")) and not (f / "meson.build").exists()]
        if folders:
            run_pytest(suite, chosen(ROOT / "tests/attack") if arguments.only else folders, left(), env, options)
    elif name == "integration":
        if arguments.only:
            run_pytest(suite, chosen(ROOT / "tests/integration"), left(), env, options)
        else:
            run_integration(suite, left(), env, options)
    elif name == "system":
        run_system(suite, left(), env)
    suite.seconds = time.monotonic() - begin
    step(f"suite {name}: {suite.passed} passed, {suite.failed} failed, {suite.skipped} skipped in {suite.seconds:.0f} s")
    return suite


def run_suites(names, env, arguments):
    """One after the other; the system tests, which are one machine that boots and waits, beside the attacks."""
    suites = []
    for name in names:
        beside = "system" if name == "attack" and "system" in names else None
        if name == "system" and "attack" in names:
            continue
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            jobs = [pool.submit(run_suite, one, env, arguments) for one in (name, beside) if one]
            suites += [job.result() for job in jobs]
        stop_everything()
    return suites


def sum_up(suites):
    print()
    for suite in suites:
        for title, text in suite.failures:
            print(f"---- failed: {title}\n{text.rstrip()}\n")
    print(f"{'suite':<12} {'passed':>7} {'failed':>7} {'skipped':>8} {'seconds':>8}")
    for suite in suites:
        print(f"{suite.name:<12} {suite.passed:>7} {suite.failed:>7} {suite.skipped:>8} {suite.seconds:>8.0f}")
    passed, failed = sum(s.passed for s in suites), sum(s.failed for s in suites)
    skipped = sum(s.skipped for s in suites)
    if passed + failed == 0:
        print("test: no test ran")
        failed = 1
    print(f"full output: {RESULTS}")
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""), flush=True)
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("suites", nargs="*", choices=(*SUITES, "all", []))
    parser.add_argument("--only")
    parser.add_argument("--keep")
    arguments = parser.parse_args()
    names = [n for n in SUITES if n in arguments.suites] if arguments.suites and "all" not in arguments.suites else SUITES

    # Whatever loses its parent in a suite becomes our child, so that we find and end it.
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, interrupted)
    RESULTS.mkdir(parents=True, exist_ok=True)
    try:
        with open(RESULTS / ".lock", "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            env = {**os.environ, "AKIRA_BUILD": str(BUILD), "AKIRA_CACHE": str(CACHE), "LC_ALL": "C.UTF-8"}
            if any(name != "lint" for name in names):
                build()
            if any(name in ("attack", "integration") for name in names):
                env["AKIRA_TEST_CACHE"] = str(guest())
            suites = run_suites(names, env, arguments)
            code = sum_up(suites)
    finally:
        stop_everything()
    sys.exit(code)


if __name__ == "__main__":
    main()
