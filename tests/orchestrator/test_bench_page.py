"""The bench's page: a section takes the place of the old one; the picture has a bar for each size."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from tests.bench.sections import with_section
from tests.bench.server_chart import LEFT, RIGHT, WIDTH, chart


def test_a_section_is_added_and_then_replaced_where_it_stands() -> None:
    page = with_section("# Page\n\ntext\n", "server", "## Server\nold \\1")
    assert page == "# Page\n\ntext\n\n<!-- begin server -->\n## Server\nold \\1\n<!-- end server -->\n"
    again = with_section(page + "\nmore\n", "server", "## Server\nnew \\1\n")
    assert again == page.replace("old", "new") + "\nmore\n"


def test_the_picture_is_svg_with_bars_to_scale() -> None:
    root = ET.fromstring(chart({100: 50.0, 10_000: 25.0}))
    bars = [float(one.attrib["width"]) for one in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert bars == [WIDTH - LEFT - RIGHT, (WIDTH - LEFT - RIGHT) / 2]
    assert "10,000 hosts" in "".join(root.itertext())
