"""A CSV file of hosts: taken whole or refused whole, every error with its line and column."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.host_csv import CsvError, HostChange, Known, planned, read_host_file
from orchestrator.host_record import HOST_NAME, HostRecord
from orchestrator.run_record import normal_mac
from tests.orchestrator.making import START

A, B = "52:54:00:00:00:0a", "52:54:00:00:00:0b"
OLD = HostRecord(name="old", macs=(A,), labels=("rack=1",), note="was here", profile="web", created_at="then")
KNOWN = Known({"old": OLD}, frozenset({"web", "db"}))


def taken(text: str | bytes, known: Known = KNOWN) -> tuple[list[HostRecord], list[HostChange]]:
    file = read_host_file(text if isinstance(text, bytes) else text.encode())
    hosts, changes = planned(file, known, START)
    assert file.errors == []
    return hosts, changes


def errors(text: str | bytes, known: Known = KNOWN) -> list[tuple[int, int, str]]:
    file = read_host_file(text if isinstance(text, bytes) else text.encode())
    planned(file, known, START)
    return [(one.line, one.column, one.message) for one in file.errors]


@pytest.mark.parametrize(
    "text",
    [
        f"name,mac,profile,labels,note\nn1,{B},web,rack=2 row=3,new\n",
        f"\ufeffname;mac;profile;labels;note\r\nn1;{B.upper()};web;rack=2|row=3;new\r\n",
        f"Host\tMACs\tprofile\tlabel\tNotes\nn1\t{B.replace(':', '-')}\tweb\track=2 row=3\tnew",
        f'\n\nnote, name ,mac,labels,profile\n\nnew,n1,{B.replace(":", "")},"rack=2,row=3",web\n\n',
        'name,mac,note,profile,labels\r\n"n1","5254.0000.000b","new","web","rack=2 row=3"',
    ],
    ids=["commas", "BOM, semicolons, CRLF", "tabs and other headings", "another order, blank lines", "quotes, dots"],
)
def test_the_same_host_however_it_is_written(text: str) -> None:
    hosts, changes = taken(text)
    wanted = HostRecord(name="n1", macs=(B,), labels=("rack=2", "row=3"), note="new", profile="web", created_at=START)
    assert hosts == [wanted]
    assert [(one.name, one.act) for one in changes] == [("n1", "created")]


def test_what_a_line_leaves_out_stays_as_it_is() -> None:
    hosts, changes = taken("name,profile,note\nold,db,\n")
    assert hosts == [
        HostRecord(name="old", macs=(A,), labels=("rack=1",), note="was here", profile="db", created_at="then")
    ]
    assert changes == [HostChange(name="old", act="changed", changes=("profile: web -> db",))]
    assert taken("name,profile\nold,web\n")[1] == [HostChange(name="old", act="unchanged")]


def test_an_address_may_move_within_the_file() -> None:
    hosts, _ = taken(f"name,mac\nold,{B}\nnew,{A}\n")
    assert {one.name: one.macs for one in hosts} == {"old": (B,), "new": (A,)}


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("", 1, 0, "empty"),
        ("mac\n", 1, 0, "no column name"),
        ("name,colour\n", 1, 2, "no column 'colour'"),
        ("name,mac,MAC\n", 1, 3, "twice"),
        (f"name,mac\nn1,{B},x\n", 2, 3, "3 cells"),
        ("name,mac\nn1,52:54:00\n", 2, 2, "no"),
        ("name,mac\n\n\nn1,00:00:00:00:00:00\n", 4, 2, "no single host"),
        ("name,mac\nn1,ff:ff:ff:ff:ff:ff\n", 2, 2, "no single host"),
        (f"name,mac\nn1,{B}\nn2,{B}\n", 3, 2, "n1 on line 2"),
        (f"mac,name\n{A},n1\n", 2, 1, "belongs to the host old"),
        ("name\nn1\nn1\n", 3, 1, "line 2 already"),
        ("name\n../etc\n", 2, 1, "no host name"),
        ('name,mac\n,"52:54:00:00:00:0b"\n', 2, 1, "no host name"),
        ("name,profile\nn1,nope\n", 2, 2, "no hardware profile 'nope'"),
        ("name,labels\nn1,a b<script>\n", 2, 2, "no label"),
        ('name,note\nn1,"two\nlines"\nn2,"', 4, 0, "no CSV"),
        ('name,note,mac\nn1,"two\nlines",zz\n', 2, 3, "not a MAC"),
        (b"name\nn1\nn\xe9\n", 3, 0, "0xe9 is not UTF-8"),
        ("name\nn\0\n", 2, 0, "NUL"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str | bytes, line: int, column: int, words: str) -> None:
    found = errors(text)
    assert [(one[0], one[1]) for one in found] == [(line, column)], found
    assert words in found[0][2]


def test_all_errors_are_told_at_once_in_order() -> None:
    found = errors(f"name,mac,profile\nn1,zz,nope\n!,{B},web\nn3,{A},web\n")
    assert [(line, column) for line, column, _ in found] == [(2, 2), (2, 3), (3, 1), (4, 2)]


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.binary(max_size=400) | st.text(max_size=400).map(str.encode))
def test_no_bytes_break_it(content: bytes) -> None:
    file = read_host_file(content)
    hosts, _ = planned(file, KNOWN, START)
    assert all(isinstance(one, CsvError) and one.line >= 1 for one in file.errors)
    for host in hosts:
        assert HOST_NAME.fullmatch(host.name)
        assert all(normal_mac(mac) == mac for mac in host.macs)


CELLS = st.text(alphabet='name,mac;\t"\n:0a2 |-x\r', max_size=60)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.lists(CELLS, max_size=6))
def test_no_line_of_a_good_file_breaks_it(lines: list[str]) -> None:
    file = read_host_file("\n".join(["name,mac,note", *lines]).encode())
    planned(file, KNOWN, START)
    last = "\n".join(["name,mac,note", *lines]).count("\n") + sum(line.count("\r") for line in lines) + 2
    assert all(1 <= one.line <= last for one in file.errors)
