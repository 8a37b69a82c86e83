"""The bundled store starts with the chart's own script and rules, as primary and as replica."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import redis

from tests.support.chart_release import (
    FILES,
    role_password,
    started_store,
    store_client,
    store_environment,
)
from tests.support.redis_servers import until

# Whatever a shell, a configuration file or a rule would take for its own.
_PASSWORD = 'of "letters" & \\signs'


def test_users_may_do_what_their_work_takes_and_no_more(tmp_path: Path) -> None:
    with started_store(tmp_path, password=_PASSWORD) as port:
        probe = store_client(port, "probe", "anything")
        assert probe.ping()
        wrong = [("nestvec", "wrong"), ("nestvec-query", _PASSWORD), ("ray", "wrong")]
        for user, password in (("default", ""), *wrong):
            with pytest.raises(redis.RedisError):
                store_client(port, user, password).ping()
        ours = store_client(port, "nestvec", _PASSWORD)
        assert ours.set("nestvec:a", "1")
        assert ours.eval("return redis.call('GET', KEYS[1])", 1, "nestvec:a") == b"1"
        reading = store_client(port, "nestvec-query", role_password("query", _PASSWORD))
        assert reading.get("nestvec:a") == b"1"
        with pytest.raises(redis.exceptions.NoPermissionError):
            reading.set("nestvec:a", "2")
        rays = store_client(port, "ray", _PASSWORD)
        assert rays.hset("RAYnestvec-ray@TABLE", "a", "1") == 1
        for one, key in ((ours, "RAYx"), (ours, "other"), (rays, "nestvec:a")):
            with pytest.raises(redis.exceptions.NoPermissionError):
                one.get(key)
        for one in (ours, reading, rays, probe):
            for command in (("FLUSHALL",), ("CONFIG", "GET", "*"), ("ACL", "LIST"), ("KEYS", "*")):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    one.execute_command(*command)


def test_the_others_copy_the_first_one(tmp_path: Path) -> None:
    with (
        started_store(tmp_path / "0", password=_PASSWORD) as primary,
        started_store(tmp_path / "1", "1", primary, _PASSWORD) as replica,
    ):
        store_client(primary, "nestvec", _PASSWORD).set("nestvec:a", "1")
        reader = store_client(replica, "nestvec", _PASSWORD)
        until(lambda: reader.get("nestvec:a") == b"1")
        with pytest.raises(redis.exceptions.ReadOnlyError):
            reader.set("nestvec:a", "2")


def test_without_a_password_nothing_starts(tmp_path: Path) -> None:
    environment = store_environment(tmp_path, "0")
    file = Path(environment["PASSWORD_DIR"]) / "query"
    for content, told in (("\n", "query is empty"), (None, "the Secret has no key query")):
        file.unlink()
        if content is not None:
            file.write_text(content)
        done = subprocess.run(
            ["sh", str(FILES / "start-redis.sh")],
            env=environment,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == 1
        assert told in done.stderr
