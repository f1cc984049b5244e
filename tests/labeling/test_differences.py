"""Differences: each version can be read off the pieces, and long unchanged stretches are short."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from heedful.labeling.differences import Piece, differences

TEXTS = st.text(alphabet="ab \n", max_size=60)


def test_a_changed_word_is_marked_alone():
    assert differences("Be kind.\nBe short.\n", "Be kind.\nBe brief.\n") == [
        Piece("same", "Be kind.\n"),
        Piece("same", "Be "),
        Piece("removed", "short."),
        Piece("added", "brief."),
        Piece("same", "\n"),
    ]


def test_what_did_not_change_is_left_out_but_for_two_lines_around():
    old = "".join(f"line {n}\n" for n in range(9))
    assert differences(old, old + "new\n") == [
        Piece("skipped", "7 lines are as they were"),
        Piece("same", "line 7\nline 8\n"),
        Piece("added", "new\n"),
    ]
    assert differences(old, old) == []


def test_a_long_passage_is_shown_whole():
    old, new = "a b " * 600, "c d " * 600
    assert differences(old, new) == [Piece("removed", old), Piece("added", new)]


@given(TEXTS, TEXTS)
def test_both_versions_can_be_read_off(old, new):
    pieces = differences(old, new)
    if any(piece.kind == "skipped" for piece in pieces) or not pieces:
        return
    assert "".join(p.text for p in pieces if p.kind != "added") == old
    assert "".join(p.text for p in pieces if p.kind != "removed") == new
