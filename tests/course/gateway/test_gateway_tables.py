"""The lab's tables and pictures, on made-up results."""

from shared import results
from shared.course import labs
from shared.course.gateway import naive_gateway, overload, tables

STREAM = (
    'data: {"choices":[{"delta":{"role":"assistant","content":null}}]}\n\n'
    'data: {"choices":[{"delta":{"content":"The sea"}}]}\n\n'
)


def test_the_text_of_a_stream_shows_each_beginning_and_the_end() -> None:
    assert tables.text_of(STREAM) == "text: The sea\nthen: no end"
    assert tables.text_of(STREAM * 2 + "data: [DONE]\n\n") == "text: The sea\ntext: The sea\nthen: [DONE]"
    assert tables.text_of(STREAM + "\n\nevent: error\ndata: {}\n\n") == "text: The sea\nthen: an error"


def test_each_version_of_the_naive_gateway_is_shown_whole_and_is_short() -> None:
    shown = tables.source(naive_gateway.make_app, naive_gateway.blocks_the_loop).splitlines()
    assert len(shown) <= 30
    for name in naive_gateway.VERSIONS:
        text = tables.version(name)
        assert text.startswith(f"async def {name}(")
        assert len(text.splitlines()) <= 20


def test_waiting_is_drawn_and_listed() -> None:
    raw = {"streams": [[-200, 0, 900, 1000], [5, 1200, 1500]], "checks": [[5, 1100, True], [1120, 1130, False]]}
    plot = tables.waiting("Two clients", raw)
    assert plot.rows[0] == ("first stream", "0.20", "1.20")
    assert plot.rows[1] == ("second stream", "1.20", "1.50")
    assert plot.rows[2][:2] == ("2 health checks", "at most 1.09")


def test_overload_counts_every_request_once() -> None:
    good = {"ttft_ms": 100.0, "tpot_ms": 10.0, "e2e_ms": 200.0, "tokens": 8, "error": None}
    late, refused = {**good, "ttft_ms": 900.0}, {**good, "tokens": None, "error": "HTTP 429: busy"}
    waited = {**refused, "error": "HTTP 503: No seat became free in time."}
    gone = {**good, "tokens": None, "error": "no first byte within 6 s"}
    for name, rows in (("alone", [good] * 4), ("first", [good, late, refused, waited, gone])):
        raw = {overload.PAYING: rows}
        results.record("3.3.5", f"overload/{name}", overload.counted(raw), raw=raw)
    lab = labs.open("3.3.5")
    _, first = tables.overload(lab, ["alone", "first"]).rows
    assert first == ("first settings", "paying", "5", "2", "2", "1", "500 (100–900)", "8")
    assert tables.kept(lab, ["alone", "first"]).rows == [("paying key alone", "100"), ("first settings", "25")]
