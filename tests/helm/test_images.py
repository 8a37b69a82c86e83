"""The Dockerfiles keep to what images of ours must be, and their install steps work."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.chart import ROOT
from tests.support.long_runs import takes_long

_DOCKER = ROOT / "docker"
_FILES = ("Dockerfile", "Dockerfile.gpu")
_FAISS = {"Dockerfile": "cpu", "Dockerfile.gpu": "gpu"}


def instructions(name: str) -> list[tuple[str, str]]:
    """(instruction, what it says), without comments, continued lines put together."""
    text = (_DOCKER / name).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    whole = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in whole]


def stages(name: str) -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for one in instructions(name):
        if one[0] == "FROM":
            found.append([])
        found[-1].append(one)
    return found


@pytest.mark.parametrize("name", _FILES)
def test_it_is_pinned_and_names_no_registry(name: str) -> None:
    for kind, said in instructions(name):
        if kind == "FROM":
            assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-[a-z]+( AS build)?", said)
        assert "://" not in said
        assert kind != "ADD"
        if kind == "RUN":
            for install in re.findall(r"pip install (.+?)(?:&&|$)", said):
                pinned = "--constraint constraints.txt" in install or "--no-deps" in install
                assert pinned or re.fullmatch(r"\w+==[\d.]+ ?", install), install


@pytest.mark.parametrize("name", _FILES)
def test_what_runs_is_small_and_not_root(name: str) -> None:
    build, last = stages(name)
    assert ("WORKDIR", "/src") in build
    kinds = [kind for kind, _ in last]
    # Nothing is installed or built in it; what runs comes from the stage before.
    assert "RUN" not in kinds
    assert [said for kind, said in last if kind == "COPY"] == [
        "--from=build /opt/nestvec /opt/nestvec"
    ]
    (user,) = [said for kind, said in last if kind == "USER"]
    assert all(int(one) > 0 for one in user.split(":"))
    assert "HEALTHCHECK" not in kinds  # Kubernetes asks by gRPC
    ((_, command),) = [one for one in last if one[0] == "CMD"]
    assert command.startswith("[")  # no shell between it and its signals


@pytest.mark.parametrize("name", _FILES)
def test_what_it_copies_is_let_into_the_build(name: str) -> None:
    allowed = {
        line[1:]
        for line in (_DOCKER / f"{name}.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = {
        source for kind, said in stages(name)[0] if kind == "COPY" for source in said.split()[:-1]
    }
    assert copied == allowed
    assert all((ROOT / one).exists() for one in copied)


@pytest.mark.parametrize("name", _FILES)
def test_it_takes_extras_that_there_are_and_one_faiss(name: str) -> None:
    extras = extras_of(name)
    assert {"cpu", "gpu"} & set(extras) == {_FAISS[name]}
    lines = requirements(extras)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["dependencies"]) <= set(lines)
    assert [one for one in lines if one.startswith("faiss-")] == project["optional-dependencies"][
        _FAISS[name]
    ]
    # What the other stages run is there: Ray in the head, helm's jobs.
    assert "cluster" in extras


def test_the_chart_and_the_images_have_the_version_of_the_project() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = (ROOT / "helm" / "nestvec" / "Chart.yaml").read_text()
    assert f'appVersion: "{version}"' in chart
    for name in _FILES:
        assert f'image.version="{version}"' in (_DOCKER / name).read_text()
    ray = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    values = (ROOT / "helm" / "nestvec" / "values.yaml").read_text()
    assert f'version: "{ray[0]}"' in values


@pytest.mark.parametrize(
    ("extras", "said"),
    [(["cpu", "gpu"], "one of the extras"), (["cluster"], "one of"), (["cpu", "x"], "x: no such")],
)
def test_extras_that_do_not_fit_are_refused(extras: list[str], said: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        requirements(extras)
    assert said in failed.value.stderr


@takes_long
@pytest.mark.timeout(900)
def test_the_install_steps_work_in_a_clean_environment(tmp_path: Path) -> None:
    """Those of the image without a GPU, one by one as it has them, here instead of in /opt."""
    for source in (
        "constraints.txt",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "services",
        "cluster",
    ):
        (tmp_path / source).symlink_to(ROOT / source)
    (tmp_path / "requirements.py").symlink_to(_DOCKER / "requirements.py")
    for kind, said in stages("Dockerfile")[0]:
        if kind == "RUN":
            command = said.replace("/opt/", f"{tmp_path}/opt/").replace("/dist", f"{tmp_path}/dist")
            command = command.replace("$EXTRAS", ",".join(extras_of("Dockerfile")))
            (tmp_path / "opt").mkdir(exist_ok=True)
            subprocess.run(["sh", "-ec", command], cwd=tmp_path, check=True, capture_output=True)
    python = tmp_path / "opt" / "nestvec" / "bin" / "python"
    for module in ("nestvec.query.main", "nestvec.coarse.main", "nestvec_cluster.layouts"):
        subprocess.run([python, "-m", module, "--help"], check=True, capture_output=True)
    assert not list((tmp_path / "opt" / "nestvec" / "bin").glob("pip*"))


def extras_of(name: str) -> list[str]:
    ((_, said),) = [one for one in instructions(name) if one[0] == "ARG"]
    return said.removeprefix("EXTRAS=").split(",")


def requirements(extras: list[str]) -> list[str]:
    done = subprocess.run(
        [sys.executable, _DOCKER / "requirements.py", ROOT / "pyproject.toml", ",".join(extras)],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()
