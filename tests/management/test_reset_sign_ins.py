"""`manage.py reset_sign_ins`, with the running service's own counts."""

from __future__ import annotations

import http.cookiejar
import re
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from tests.running import Redis, Service, free_port


def statuses(service: Service, count: int, password: str = "wrong") -> list[int]:
    jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
    opener = urllib.request.build_opener(jar)
    page = opener.open(f"{service.endpoint}/admin/login/").read().decode()
    token = re.search(r'csrfmiddlewaretoken" value="([^"]+)', page)
    assert token
    form = {"username": "ada", "password": password, "csrfmiddlewaretoken": token[1], "next": "/api/health"}
    found = []
    for _ in range(count):
        try:
            found.append(opener.open(f"{service.endpoint}/admin/login/", urllib.parse.urlencode(form).encode()).status)
        except urllib.error.HTTPError as problem:
            found.append(problem.code)
            problem.close()
    return found


def test_processes_share_the_counts_and_the_command_forgets_them(redis_server: Redis, data_dir: Path) -> None:
    env = {
        "REDIS_URL": f"redis://127.0.0.1:{redis_server.port}/7",
        "ADMIN_USERNAME": "ada",
        "ADMIN_PASSWORD": "correct horse battery",
        "SIGN_IN_FAILURES": "2",
        # A period does not end in the middle of the test.
        "SIGN_IN_COOL_OFF_SECS": "86400",
    }
    one = Service(data_dir, env=env).set_up()
    other = Service(data_dir, env=env)
    try:
        one.start()
        other.start()
        assert statuses(one, 1) + statuses(other, 2) == [200, 200, 429]
        assert statuses(one, 1, "correct horse battery") == [429]
        assert "are forgotten" in one.manage("reset_sign_ins", "ada").stdout
        assert statuses(other, 1, "correct horse battery") == [200]
    finally:
        one.stop()
        other.stop()


def test_without_redis_the_command_says_what_to_do(data_dir: Path) -> None:
    done = Service(data_dir).manage("reset_sign_ins", "ada", check=False)
    assert done.returncode == 1
    assert "Restart it" in done.stderr
    assert "Traceback" not in done.stderr


def test_while_redis_is_away_the_command_says_that_nothing_is_forgotten(data_dir: Path) -> None:
    env = {"REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}
    done = Service(data_dir, env=env).manage("reset_sign_ins", "ada", check=False)
    assert done.returncode == 1
    assert "Start Redis if it is down" in done.stderr
    assert "nothing is forgotten" in done.stderr
    assert "Traceback" not in done.stderr
