"""Names that can stand in file names."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copick.util.escape import check_clean, sanitize_name


@pytest.mark.parametrize(
    ("given_name", "clean"),
    [
        ("a_b", "a-b"),
        ("a b", "a-b"),
        ("__a__b__", "a--b"),
        ('a<b>c:d"e/f\\g|h?i*j', "a-b-c-d-e-f-g-h-i-j"),
        ("a\x00b\x1fc\x7fd", "a-b-c-d"),
        ("tab\tnew\nline\u2003em", "tab-new-line-em"),
        ("v1.2+x@y", "v1.2+x@y"),
        ("Ünïçødé", "Ünïçødé"),
    ],
)
def test_unclean_names_are_changed_with_a_warning(given_name: str, clean: str) -> None:
    if clean == given_name:
        assert sanitize_name(given_name) == clean
    else:
        with pytest.warns(UserWarning, match="was changed"):
            assert sanitize_name(given_name) == clean


def test_the_warning_can_be_suppressed() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sanitize_name("a_b", suppress_warnings=True) == "a-b"


@pytest.mark.parametrize("name", ["", "_", " \t", "///"])
def test_nothing_left(name: str) -> None:
    with pytest.raises(ValueError, match="no character"):
        sanitize_name(name)


def test_not_a_string() -> None:
    with pytest.raises(TypeError, match="must be a string, not int 3"):
        sanitize_name(3)  # type: ignore[arg-type]


@given(st.text(min_size=1))
def test_clean_names_stay(name: str) -> None:
    try:
        clean = sanitize_name(name, suppress_warnings=True)
    except ValueError:
        return
    assert sanitize_name(clean) == clean
    assert check_clean(clean, "name") == clean
    assert "_" not in clean


def test_check_clean_suggests_a_name() -> None:
    with pytest.raises(ValueError, match=r"object name 'a_b'.*try 'a-b'"):
        check_clean("a_b", "object name")
