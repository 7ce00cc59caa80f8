"""Time limits, against the table of formats in sbatch(1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dhhpc.batch.duration import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90 * 60),
        ("90:30", 90 * 60 + 30),
        ("1:30:15", 3600 + 30 * 60 + 15),
        ("2-12", 2 * 86400 + 12 * 3600),
        ("2-12:30", 2 * 86400 + 12 * 3600 + 30 * 60),
        ("2-12:30:15", 2 * 86400 + 12 * 3600 + 30 * 60 + 15),
        (" 5 ", 300),
    ],
)
def test_formats_of_sbatch(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "x", "1h", "-5", "1:2:3:4", "0", "00:00", "1-", "1:", "1.5", "1-2-3", "$(reboot)"]
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="time"):
        parse_duration(text)


@given(st.integers(min_value=1, max_value=10**7))
def test_a_written_time_reads_back(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds
