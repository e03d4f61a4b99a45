from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from pytest_klavis.mcp.sse import messages

pieces = st.sampled_from(
    [b"data: a", b"data:b", b"data", b"event: message", b"event: x", b": c", b"\n", b"\r", b"\r\n"]
)


@given(st.lists(pieces, max_size=30), st.lists(st.integers(0, 200), max_size=20))
def test_cutting_a_stream_does_not_change_it(lines: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(lines)
    edges = [0, *sorted(cuts), len(stream)]
    cut = [stream[start:end] for start, end in itertools.pairwise(edges)]
    assert list(messages(cut)) == list(messages([stream]))


@given(st.lists(st.text(st.characters(exclude_characters="\r\n\x00"), min_size=1), max_size=5))
def test_data_comes_out_as_it_went_in(texts: list[str]) -> None:
    stream = "".join(f"data: {text}\n\n" for text in texts).encode("utf-8", "surrogatepass")
    assert list(messages([stream])) == [text.encode("utf-8", "surrogatepass") for text in texts]
