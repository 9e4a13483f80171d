"""Configuration, first start, administration on the host."""

import json
import os
import socket
import stat
import subprocess
import time

import pytest

from harness.client import Api
from harness.daemon import descendants, free_port, name_of, program
from harness.wait import wait_until


def check(daemon, *arguments, environment=None):
    done = subprocess.run(
        [program("akirad"), "--config", daemon.config, "--check-config", *arguments],
        env={**daemon.child_environment(), **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace")


def test_a_good_configuration(private):
    code, output = check(private())
    assert code == 0, output


@pytest.mark.parametrize("section, key, value", [
    ("server", "listen", "nowhere"), ("server", "listen", "127.0.0.1:99999"), ("server", "listne", "127.0.0.1:1"),
    ("pool", "size", "-1"), ("pool", "size", "many"), ("engine", "acceleration", "warp"), ("log", "format", "xml"),
    ("log", "level", "loud"), ("limits", "disk_reserve_mib", "-5"), ("nosuch", "key", "1"), ("user", "user", "no-such-user-here"),
    ("user", "vm_uid_count", "0"), ("network", "net_base", "300.1.2.3"), ("server", "tls_cert", "/no/such/file"),
])
def test_a_bad_one_names_section_and_key(private, section, key, value):
    daemon = private({section: {key: value}})
    code, output = check(daemon)
    assert code != 0, output
    assert key in output or section in output, output
    daemon.spawn()
    assert daemon.process.wait(30) != 0


@pytest.mark.parametrize("text", ["[server\nlisten=x", "listen = 127.0.0.1:1\n", "\0\0\0", "[server]\n" + "x" * 100000])
def test_no_configuration_file_at_all(private, text):
    daemon = private()
    daemon.config.write_text(text)
    code, output = check(daemon)
    assert code != 0 and output


def test_a_missing_file(private):
    daemon = private()
    daemon.config.unlink()
    code, output = check(daemon)
    assert code != 0 and str(daemon.config.name) in output


def test_environment_over_file_and_flags_over_environment(private):
    daemon = private()
    by_environment, by_flag = free_port(), free_port()
    daemon.environment = {"AKIRA_SERVER_LISTEN": f"127.0.0.1:{by_environment}"}
    daemon.port = by_environment
    daemon.start()
    assert daemon.stop() == 0
    daemon.port = by_flag
    daemon.start(f"--server-listen=127.0.0.1:{by_flag}")
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", by_environment), 2)
    assert daemon.stop() == 0


def test_the_first_start_makes_a_key_once(private):
    daemon = private().start()
    file = daemon.data / "credentials"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    credentials = daemon.credentials()
    assert credentials["api_key"].startswith("sk_live_") and str(daemon.port) in credentials["base_url"]
    assert daemon.api().get("/v1/sandboxes/list").status == 200
    assert daemon.stop() == 0
    daemon.start()
    assert daemon.credentials() == credentials
    assert credentials["api_key"] not in "\n".join(daemon.log_lines())


def test_files_are_not_for_others(private):
    daemon = private().start()
    daemon.api().create().remove()
    for path in daemon.data.rglob("*"):
        mode = path.lstat().st_mode
        if path.is_symlink() or path.is_socket():
            continue
        assert not mode & 0o007 or "template" in str(path) or path.is_dir(), (path, oct(mode))
    for name in ("akira.db", "akira.secret", "credentials"):
        assert not (daemon.data / name).stat().st_mode & 0o077, name


def test_it_runs_as_its_own_user(daemon):
    """Decision 1: who listens to the network is not root; who is root does not listen."""
    with open(f"/proc/{daemon.pid}/status", encoding="ascii") as file:
        text = file.read()
    uids = [line for line in text.splitlines() if line.startswith("Uid:")][0].split()[1:]
    assert "0" not in uids
    assert [line for line in text.splitlines() if line.startswith("CapEff:")][0].split()[1] == "0" * 16
    assert [line for line in text.splitlines() if line.startswith("NoNewPrivs:")][0].split()[1] == "1"
    assert any(name_of(pid) == "akira-launch" for pid in descendants(daemon.pid))


def test_port_in_use(private):
    daemon = private()
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", daemon.port))
        holder.listen()
        daemon.spawn()
        assert daemon.process.wait(60) != 0
    assert str(daemon.port) in daemon.tail() or "listen" in daemon.tail() or "bind" in daemon.tail()


def test_a_folder_that_cannot_be_written(private):
    daemon = private()
    daemon.settings["paths"]["data_dir"] = "/proc/nothing"
    daemon.write_config()
    daemon.spawn()
    assert daemon.process.wait(60) != 0 and daemon.tail()


def test_logs_are_json_lines(daemon):
    lines = daemon.log_lines()
    assert lines
    for line in lines:
        entry = json.loads(line)
        assert "event" in entry and "level" in entry, line


def test_reset_key(private):
    daemon = private().start()
    old = daemon.key
    code, output = daemon.admin("reset-key")
    assert code == 0, output
    new = daemon.key
    assert new != old
    wait_until(lambda: daemon.api(new).get("/v1/sandboxes/list").status == 200, "the new key works", 20)
    wait_until(lambda: daemon.api(old).get("/v1/sandboxes/list").status == 401, "the old key does not", 20)


@pytest.mark.limit(150)
def test_backup_while_it_runs(private, tmp_path):
    daemon = private().start()
    box = daemon.api().create(name="in-backup")
    target = tmp_path / "backup.db"
    os.chmod(tmp_path, 0o777)
    code, output = daemon.admin("backup", str(target))
    assert code == 0 and target.stat().st_size > 0, output
    assert not target.stat().st_mode & 0o077
    done = subprocess.run(["sqlite3", target, "pragma integrity_check; select count(*) from sandboxes"], capture_output=True, check=False)
    if done.returncode == 0:
        assert done.stdout.decode().split() == ["ok", "1"]
    again, _ = daemon.admin("backup", str(target))
    assert again != 0, "an existing file is not overwritten"
    box.remove()


def test_tls(private, tmp_path):
    import ssl

    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True, stdin=subprocess.DEVNULL)
    for path in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        os.chmod(path, 0o755)
    os.chmod(key, 0o644)
    daemon = private({"server": {"tls_cert": certificate, "tls_key": key}})
    daemon.spawn()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def answers():
        assert daemon.alive, daemon.tail()
        try:
            return Api("127.0.0.1", daemon.port, tls=context).get("/healthz").status == 200
        except OSError:
            return False

    wait_until(answers, "it answers over TLS", 60)
    answer = Api("127.0.0.1", daemon.port, daemon.key, context).get("/v1/sandboxes/list")
    assert answer.status == 200 and "strict-transport-security" in answer.headers
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((OSError, ssl.SSLError)):
        Api("127.0.0.1", daemon.port, tls=old).get("/healthz")
    plain = Api("127.0.0.1", daemon.port).raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", timeout=10)
    assert b"200 OK" not in plain


def test_health_says_what_runs(daemon):
    answer = daemon.api().get("/healthz", key=None)
    assert answer.status == 200
    text = answer.body.decode()
    assert "qemu" in text and ("tcg" in text or "kvm" in text)


def test_unknown_flags(private):
    daemon = private()
    code, output = check(daemon, "--no-such-flag=1")
    assert code != 0 and "no-such-flag" in output


def test_it_starts_quickly(private):
    daemon = private()
    begin = time.monotonic()
    daemon.start()
    assert time.monotonic() - begin < 60
