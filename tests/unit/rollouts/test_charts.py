import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollouts import charts
from rollouts.charts import HEIGHT, WIDTH, Step

HOSTILE = "\"><script>alert(1)</script>&'<img src=x onerror=alert(1)>"


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(str(svg))


def boxes(svg: str, kind: str) -> list[dict[str, float]]:
    """Position and size of the rectangles whose class begins with `kind`."""
    return [
        {name: float(rect.attrib[name]) for name in ("x", "y", "width", "height")}
        for rect in parse(svg).iter("rect")
        if rect.attrib["class"].startswith(kind) and rect.find("title") is not None
    ]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in parse(svg).iter("text")]


def tips(svg: str) -> list[str]:
    return [element.text or "" for element in parse(svg).iter("title")]


def all_charts(label: str) -> list[str]:
    return [
        charts.histogram(label, [0, 1, 2], {label: [1, 2], "b": [0, 1]}, x_label=label, y_label=label, mark=(1, label)),
        charts.bars(label, [label, "b"], [0.5, None], x_label=label, y_label=label, intervals=[(0.4, 0.6), None]),
        charts.timeline(label, 10, {label: [1, 2], "b": [3, 4]}, y_label=label),
        charts.limits(label, [(1.0, 64, label), (5.0, 32, label)], 10.0),
        charts.waterfall(label, [Step(label, 10, "level"), Step(label, 3, "drop"), Step("kept", 7, "level")]),
        charts.meter(0.5, label),
    ]


def test_hostile_labels_stay_text_in_every_chart():
    for svg in all_charts(HOSTILE):
        names = {element.tag for element in parse(svg).iter()}
        assert names <= {"svg", "rect", "text", "title", "line", "path", "polygon"}
        assert {name for element in parse(svg).iter() for name in element.attrib if name.startswith("on")} == set()


def test_every_chart_has_a_role_and_a_label_for_screen_readers():
    for svg in all_charts("some label"):
        root = parse(svg)
        assert root.attrib["role"] == "img"
        assert root.attrib["aria-label"].startswith("some label")


def test_charts_bring_no_colours_or_styles_of_their_own():
    for svg in all_charts("label"):
        assert not re.search(r"style=|fill=|stroke=|#[0-9a-f]{3}|url\(|href", str(svg))


def test_columns_of_a_histogram_are_as_high_as_their_counts():
    columns = boxes(charts.histogram("t", [0, 1, 2, 3], {"a": [10, 0, 5]}, x_label="x"), "series-1")
    assert len(columns) == 2
    assert columns[0]["height"] == pytest.approx(2 * columns[1]["height"], abs=0.1)
    assert columns[0]["x"] < columns[1]["x"]


def test_series_of_a_histogram_stand_on_each_other():
    svg = charts.histogram("t", [0, 1], {"stop": [6], "length": [2]}, x_label="x")
    [below], [above] = boxes(svg, "series-1"), boxes(svg, "series-2")
    assert above["y"] + above["height"] == pytest.approx(below["y"], abs=0.2)
    assert "stop, 0 to 1: 6 rollouts (75.0 %)" in tips(svg)
    assert {"stop", "length"} <= set(texts(svg))


def test_a_single_series_needs_no_legend():
    assert "only" not in texts(charts.histogram("t", [0, 1], {"only": [6]}, x_label="x"))


def test_a_mark_outside_the_axis_is_not_drawn():
    assert "here" in texts(charts.histogram("t", [0, 1], {"a": [6]}, x_label="x", mark=(0.5, "here")))
    assert "here" not in texts(charts.histogram("t", [0, 1], {"a": [6]}, x_label="x", mark=(2, "here")))


def test_an_unknown_column_says_so():
    svg = charts.bars("t", ["1", "2"], [0.5, None], x_label="k", y_label="share", largest=1.0)
    assert "not known" in texts(svg)
    assert len(boxes(svg, "series-1")) == 1


def test_labels_that_would_overlap_are_left_out():
    names = [f"a long name {i}" for i in range(30)]
    shown = [text for text in texts(charts.bars("t", names, [1] * 30, x_label="x", y_label="y")) if text in names]
    assert 1 <= len(shown) <= 8


def test_a_timeline_names_what_happened_in_each_bucket():
    svg = charts.timeline("t", 30, {"completed": [4, 0], "failed": [1, 2]}, y_label="rollouts")
    assert tips(svg) == ["0 s to 30 s: completed 4, failed 1", "30 s to 1 min: completed 0, failed 2"]
    assert "rollouts in 30 s" in texts(svg)


def test_a_loss_hangs_where_the_rest_ends():
    steps = [Step("read", 100, "level"), Step("bad", 30, "drop"), Step("worse", 20, "drop"), Step("kept", 50, "level")]
    svg = charts.waterfall("t", steps)
    levels, losses = boxes(svg, "level"), boxes(svg, "drop")
    right = [box["x"] + box["width"] for box in (*levels, *losses)]
    assert right[2] == pytest.approx(right[0], abs=0.2)
    assert right[3] == pytest.approx(losses[0]["x"], abs=0.2)
    assert right[1] == pytest.approx(losses[1]["x"], abs=0.2)
    assert {"−30 (30.0 %)", "50 (50.0 %)"} <= set(texts(svg))


def test_a_long_name_is_cut_and_kept_as_a_tooltip():
    svg = charts.waterfall("t", [Step("x" * 60, 10, "level")])
    assert "x" * 60 in tips(svg)
    assert not any("x" * 40 in text for text in texts(svg))


counts = st.lists(st.integers(0, 10**9), min_size=1, max_size=30)


@given(counts, st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_columns_stay_inside_the_chart(heights: list[int], low: float, width: float):
    edges = [low + i * width for i in range(len(heights) + 1)]
    for box in boxes(charts.histogram("t", edges, {"a": heights}, x_label="x"), "series-1"):
        assert 0 <= box["x"] <= box["x"] + box["width"] <= WIDTH
        assert 0 <= box["y"] <= box["y"] + box["height"] <= HEIGHT


@given(counts, st.sampled_from([0.1, 1, 60, 86400, 86400 * 7]))
def test_timelines_of_any_length_have_a_handful_of_ticks(amounts: list[int], bucket_s: float):
    svg = charts.timeline("t", bucket_s, {"a": amounts}, y_label="rollouts")
    assert len(tips(svg)) == len(amounts)
    assert 4 <= len(texts(svg)) <= 17


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.25, "250 ms"),
        (1.5, "1.5 s"),
        (59.9, "1 min"),
        (90, "1 min 30 s"),
        (3599.9, "1 h"),
        (12000, "3 h 20 min"),
        (187200, "2 d 4 h"),
    ],
)
def test_durations_are_written_in_the_unit_that_suits_them(seconds: float, text: str):
    assert charts.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(950, "950"), (1500, "1.5k"), (2e7, "20M"), (0.25, "0.25"), (-3000, "-3k")]
)
def test_axis_numbers_are_short(value: float, text: str):
    assert charts.compact(value) == text


@pytest.mark.parametrize(("share", "text"), [(0, "0.0 %"), (0.5, "50.0 %"), (0.0002, "0.02 %"), (1, "100.0 %")])
def test_small_shares_do_not_become_zero(share: float, text: str):
    assert charts.percent(share) == text


def test_a_limit_is_flat_between_its_changes_and_says_why():
    svg = charts.limits("limit", [(0.0, 64, "growing"), (10.0, 16, "refused (429)"), (30.0, 32, "growing")], 40.0)
    assert tips(svg) == ["0 s to 10 s: 64, growing", "10 s to 30 s: 16, refused (429)", "30 s to 40 s: 32, growing"]
    assert [box["width"] for box in boxes(svg, "hover")] == pytest.approx([103.5, 207.0, 103.5], abs=0.1)
    [area] = parse(svg).iter("polygon")
    corners = [tuple(map(float, corner.split(","))) for corner in area.attrib["points"].split()]
    heights = [corners[0][1] - y for _, y in corners[1:-1]]
    assert heights[0] == heights[1] == pytest.approx(4 * heights[2], rel=0.01)
    assert heights[4] == pytest.approx(2 * heights[2], rel=0.01)


def test_a_limit_that_changed_once_at_the_very_end_can_be_drawn():
    assert tips(charts.limits("limit", [(5.0, 7, "latency")], 5.0)) == ["5 s to 5 s: 7, latency"]
    assert tips(charts.limits("limit", [(0.0, 7, "latency")], 0.0)) == ["0 s to 1 ms: 7, latency"]
