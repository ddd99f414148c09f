"""`lectern predict --examples`, and the tables that it reads."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import pytest

from lectern.cli.cells import RowsError
from lectern.cli.labelled_rows import examples_of, queries_of
from tests.conftest import ROOT, Server
from tests.lectern.test_cli import Run, invoke

FRUITS, BASKET = (str(ROOT / "docs" / "examples" / name) for name in ("fruits.csv", "basket.csv"))


@pytest.fixture
def run(table_learner: Server) -> Run:
    return partial(invoke, target=table_learner.target)


def test_each_row_gets_a_class_of_the_examples(run: Run) -> None:
    done = run("predict", "--examples", FRUITS, BASKET)
    assert done.returncode == 0, done.stderr
    head, *lines = done.stdout.decode().splitlines()
    assert head == "kind,probability"
    assert len(lines) == 4
    assert {line.split(",")[0] for line in lines} <= {"apple", "pear", "banana", "plum"}
    assert b"fruits.csv: column colour: 5 categories" in done.stderr
    document = json.loads(run("predict", "--examples", FRUITS, BASKET, "--json").stdout)
    assert [r["classes"][0]["label"] for r in document["results"]] == [line.split(",")[0] for line in lines]
    assert document["model"] == "table_learner"


def test_a_file_that_has_the_classes_is_compared_with_the_answers(run: Run) -> None:
    done = run("predict", "--examples", FRUITS, FRUITS)
    assert b"of 27 rows have the class that its column kind says" in done.stderr


def test_another_column_may_have_the_class(run: Run) -> None:
    done = run("predict", "--examples", FRUITS, FRUITS, "--label", "colour")
    assert done.returncode == 2
    assert b"row 8 has no class in column colour" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--label", "kind", BASKET], "give --examples too"),
        (["--examples", "-", "-"], "only one of the two files can be standard input"),
        (["--examples", FRUITS, BASKET, "--label", "taste"], "has no column 'taste'; its columns are: weight, length"),
        (["--examples", FRUITS, "no.csv"], "no.csv: no such file"),
        (["--examples", FRUITS, FRUITS, "--label", "weight"], "show 27 classes; send examples of 2 to 10"),
    ],
)
def test_wrong_usage_says_what_is_wrong(run: Run, arguments: list[str], says: str) -> None:
    done = run("predict", *arguments)
    assert done.returncode in (1, 2)
    assert says in done.stderr.decode()


def test_notes_about_rows_are_counted_after_the_first(run: Run, tmp_path: Path) -> None:
    (file := tmp_path / "far.csv").write_text("weight,length,width,colour\n" + "9000,9000,9000,red\n" * 8)
    done = run("predict", "--examples", FRUITS, str(file))
    assert b"far.csv, row 2: is far from all examples in: weight, length, width" in done.stderr
    assert b"more such notes; --json has all" in done.stderr


@pytest.mark.unit
def test_numbers_categories_and_empty_cells_are_read() -> None:
    table = examples_of("height;colour;kind\n1,5;red;a\n;blue;b\n2,25;?;a\n", None)
    assert [(c.name, c.categories) for c in table.columns] == [("height", ()), ("colour", ("blue", "red"))]
    assert table.labels == ["a", "b", "a"]
    assert table.rows[0] == [1.5, 1.0]
    assert math.isnan(table.rows[1][0])
    assert math.isnan(table.rows[2][1])


@pytest.mark.unit
def test_the_class_may_be_in_any_column_and_columns_in_any_order() -> None:
    table = examples_of("kind,a,b\nx,1,2\ny,3,4\n", "kind")
    asked = queries_of("b,kind,a\n2,x,1\n", table)
    assert (table.rows, table.labels, asked.rows, asked.labels) == ([[1, 2], [3, 4]], ["x", "y"], [[1, 2]], ["x"])


@pytest.mark.unit
def test_without_a_header_columns_are_found_by_their_order() -> None:
    table = examples_of("5.1,3.5,setosa\n4.9,,versicolor\n", None)
    assert [column.name for column in table.columns] == ["1", "2"]
    assert queries_of("5,3\n", table).rows == [[5, 3]]
    assert queries_of("5,3,setosa\n", table).labels == ["setosa"]


@pytest.mark.unit
def test_columns_of_names_are_left_out_and_new_categories_are_empty() -> None:
    names = "".join(f"person {i},{'yes' if i % 2 else 'no'},{i},{i % 3}\n" for i in range(30))
    table = examples_of("name,member,age,group\n" + names, None)
    assert [column.name for column in table.columns] == ["member", "age"]
    assert any("column name: has 30 different texts" in note for note in table.notes)
    asked = queries_of("age,member\n4,perhaps\n", table)
    assert math.isnan(asked.rows[0][0])
    assert asked.notes == ["column member: no example has 'perhaps'; taken for empty"]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "there are no rows"),
        ("a,b\n", "there are no rows below the header"),
        ("x\n1\n2\n", "has one column only"),
        ("a,b,c\n1,2,x\n1,2,\n", "row 3 has no class in column c"),
        ("a,b,c\n1,2,x\n1,tall,y\n", "row 3, column b: 'tall' is not a finite number; other rows have numbers"),
        ("a,b,c\n1,2,x\n1,2\n", "row 3 has 2 columns, not 3"),
        ("a,b,c\n,NA,x\n?,,y\n", "has no column of numbers"),
    ],
)
def test_examples_that_cannot_be_used_are_refused(text: str, says: str) -> None:
    with pytest.raises(RowsError, match=says.replace("?", r"\?")):
        examples_of(text, None)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a\n1\n", "lacks 1 of the 2 columns of the examples: b"),
        ("1,2\n", "has no header"),
        ("a,b\n1,x\n", "row 2, column b: 'x' is not a finite number"),
    ],
)
def test_queries_that_do_not_fit_are_refused(text: str, says: str) -> None:
    with pytest.raises(RowsError, match=says):
        queries_of(text, examples_of("a,b,c\n1,2,x\n3,4,y\n", None))
