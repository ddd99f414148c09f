"""Tables as spreadsheets write them: read where they can be read in one way, else refused by row and column."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from lectern.cli.rows import RowsError, read_rows
from lectern.kinds import decode_text
from tests.conftest import ROOT, Server
from tests.lectern.test_cli import invoke, refused

FEATURES = ("AL", "cli", "ili", "cli.1")
HEADER = "AL,cli,ili,cli"
ROWS = [[1.5, 2, -3, 0.25], [5, 6.125, 7, 8]]
SURVEY = ROOT / "docs" / "examples" / "survey.csv"


def test_repeated_names_are_numbered_as_pandas_does() -> None:
    assert read_rows(["cli,id,AL,cli,ili\n", "1,0,2,3,4\n"], FEATURES) == [[2, 1, 4, 3]]
    assert read_rows(["AL,cli,ili,cli.1\n", "\n", "1, 2,3,4\n"], FEATURES) == [[1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "there are no rows"),
        (["AL,cli,ili,cli\n"], "no rows below the header"),
        (["AL,cli\n", "1,2\n"], "2 of 4 columns are missing: ili, cli.1"),
        (["1,2,3\n"], "row 1 has 3 columns, the model takes 4"),
        (["AL,cli,ili,cli\n", "1,2,3,4\n", "1,2,3\n"], "row 3 has 3 columns, not 4"),
        (["1,2,3,x\n"], "row 1, column cli.1: 'x' is not a finite number"),
        (["AL,cli,ili,cli\n", "1,2,,4\n"], "row 2, column ili: '' is not"),
        (["1,2,nan,4\n"], "row 1, column ili: 'nan' is not"),
    ],
)
def test_a_table_that_does_not_fit_says_where(lines: list[str], message: str) -> None:
    with pytest.raises(RowsError) as caught:
        read_rows(lines, FEATURES)
    assert message in str(caught.value)


def table(delimiter: str = ",", *, comma: bool = False, end: str = "\n", quoted: bool = False) -> str:
    """`ROWS` with a header, with these between cells and lines."""
    cells = [HEADER.split(","), *([f"{value:g}" for value in row] for row in ROWS)]
    if comma:
        cells = [[cell.replace(".", ",") for cell in row] for row in cells]
    if quoted:
        cells = [[f'"{cell}"' for cell in row] for row in cells]
    return "".join(delimiter.join(row) + end for row in cells)


@pytest.mark.parametrize(
    "text",
    [
        table(),
        table(";"),
        table("\t"),
        table("|"),
        table(";", comma=True),
        table("\t", comma=True),
        table(comma=True, quoted=True),
        table(quoted=True),
        table(";", quoted=True),
        table(end="\r\n"),
        table(end="\r"),
        table().rstrip("\n"),
        "sep=;\r\n" + table(";", end="\r\n"),
        "sep=,\n" + table(),
        "SEP=|\n" + table("|"),
        table() + ",,,\n, ,,\n\n",
        table().replace("\n", ",,\n"),
        table() + "\n\n",
        "\n" + table(),
        table().partition("\n")[2],
        table(";", comma=True).partition("\n")[2],
    ],
)
def test_every_spreadsheets_table_is_read(text: str) -> None:
    assert read_rows([text], FEATURES) == ROWS


@pytest.mark.parametrize("note", ["a\u2028b\u2029c\u0085d\x1ce", "two\nlines", '5" of rain', "x" * 200_000, '"quoted"'])
def test_cells_of_other_columns_hold_anything(note: str) -> None:
    csv.writer(file := io.StringIO()).writerows([[*HEADER.split(","), "note"], *([*row, note] for row in ROWS)])
    assert read_rows([file.getvalue()], FEATURES) == ROWS


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_tables_come_in_any_unicode_with_a_mark(encoding: str) -> None:
    mark = b"\xff\xfe" if encoding == "utf-16-le" else b""
    assert read_rows([decode_text(mark + table().encode(encoding))], FEATURES) == ROWS


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ('"1,234",2,3,4', "row 1, column AL: '1,234' may be 1.234 or 1234"),
        ("1,234\t2\t3\t4", "may be 1.234 or 1234"),
        ('"1,234.5",2,3,4', "no separators of thousands"),
        ("1.234,5;2;3;4", "no separators of thousands"),
        ("1 234,5;2;3;4", "no separators of thousands"),
        ("1'234.5,2,3,4", "no separators of thousands"),
        ("1,234,567;2;3;4", "no separators of thousands"),
        ("1,5;2.5;3;4", "'1,5' is not a finite number: write numbers with a decimal point"),
        ("1_000,2,3,4", "is not a finite number"),
        ("12%,2,3,4", "'12%' is not a finite number"),
        ("x" * 9999 + ",2,3,4", "…' is not a finite number"),
        (HEADER + ',note\n1,2,3,4,"open\n5,6,7,8,9\n', "row 2 has a quote that is not closed"),
        (HEADER + "\n1,2,3,4\n\nfoo\n", "row 4 has 1 columns, not 4"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(cells: str, says: str) -> None:
    with pytest.raises(RowsError) as caught:
        read_rows([cells], FEATURES)
    assert says in str(caught.value)


def test_a_table_gives_the_same_answers_in_any_form(server: Server, tmp_path: Path) -> None:
    plain = SURVEY.read_text()
    forms = [plain.encode(), plain.replace(".", "\0").replace(",", ";").replace("\0", ",").encode("utf-16")]
    answers = []
    for form in forms:
        (path := tmp_path / "survey.txt").write_bytes(form)
        done = invoke("predict", path, target=server.target)
        assert done.returncode == 0, done.stderr
        answers.append(done.stdout)
    assert answers[0] == answers[1]


def test_what_is_no_table_is_named(server: Server, tmp_path: Path) -> None:
    (path := tmp_path / "survey.csv").write_bytes("Größe;2\n".encode("latin-1"))
    refused(invoke("predict", path, target=server.target), 2, "not a CSV file", "byte 2 is 0xf6", "iconv")
