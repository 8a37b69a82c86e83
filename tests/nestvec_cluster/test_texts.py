import gzip
from pathlib import Path

import pytest

from nestvec.core.errors import NestvecError
from nestvec_cluster.texts import read_texts, sample


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_lines_are_distinct_stripped_and_long_enough(tmp_path: Path) -> None:
    path = write(tmp_path / "texts", "  one text \none text\n\nshort\nanother text\n")
    assert read_texts(path, shortest=6) == ["one text", "another text"]


@pytest.mark.parametrize("column", ["summary", "2"])
def test_a_column_goes_by_name_or_number(tmp_path: Path, column: str) -> None:
    path = write(tmp_path / "t.tsv", 'name\tsummary\na\tfirst "text"\nb\tsecond text\n')
    assert read_texts(path, column) == ['first "text"', "second text"]


def test_a_compressed_table_reads_the_same(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write('summary,name\n"one, two",a\nthree,b\n')
    assert read_texts(path, "1") == ["one, two", "three"]


@pytest.mark.parametrize(
    ("name", "column", "message"),
    [
        ("t.tsv", "nothing", "no column 'nothing'"),
        ("t.tsv", "9", "column 9, expected 1 to 2"),
        ("absent.txt", None, "cannot be read"),
        ("empty.txt", None, "holds no text"),
    ],
)
def test_what_cannot_be_read_is_named(
    tmp_path: Path, name: str, column: str | None, message: str
) -> None:
    write(tmp_path / "t.tsv", "name\tsummary\na\ttext\n")
    write(tmp_path / "empty.txt", "\n")
    with pytest.raises(NestvecError, match=message):
        read_texts(tmp_path / name, column)


def test_a_sample_is_the_same_every_time_and_keeps_the_order() -> None:
    texts = [f"{number:04}" for number in range(1000)]
    chosen = sample(texts, 50)
    assert chosen == sample(texts, 50)
    assert chosen == sorted(chosen)
    assert len(set(chosen)) == 50
    assert sample(texts, None) == texts
    assert sample(texts, 2000) == texts
