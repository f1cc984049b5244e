"""Pictures of figures: what stands where, in which colour."""

from html import unescape

from PIL import Image

from heedful.plots import Dot, Line, bar_chart, dot_plot, escape, line_chart, size_chart
from heedful.png import write_png

BLUE, ORANGE, WHITE = (0x1F, 0x66, 0xB0), (0xB8, 0x5A, 0x00), (255, 255, 255)


def picture(path, *plots):
    write_png(path, "A title", plots)
    return Image.open(path).convert("RGB")


def alike(one, other):
    return all(abs(a - b) < 20 for a, b in zip(one, other, strict=True))  # edges are smoothed


def pixels(image, colour):
    """Places of a colour, in pixels."""
    data, size = image.load(), image.size
    return [(x, y) for x in range(size[0]) for y in range(size[1]) if alike(data[x, y], colour)]


def test_characters_that_no_xml_may_hold_are_marked_in_every_figure(tmp_path):
    """Of U+0000 to U+FFFF and a little more those that a parser of XML refuses; ESC in a name."""
    from xml.etree import ElementTree

    refused = []
    for code in [*range(0x10100), 0x10FFFF]:
        try:
            ElementTree.fromstring(f"<a>{chr(code)}</a>" if code not in (38, 60) else "<a/>")
        except (ElementTree.ParseError, UnicodeEncodeError):
            refused.append(chr(code))
    assert "\x1b" in refused and "\ud800" in refused and "\t" not in refused
    name = "PPO\x1b[1m & <b>"
    shown = "PPO\ufffd[1m & <b>"
    plots = [
        dot_plot(name, [Dot(name, 0.5, series=name), Dot(name, 0.6)], x_label=name),
        bar_chart(name, [(name, 1.0)], x_label=name),
        line_chart(
            name, [Line(name, [1, 2], [1, 2]), Line(name, [1], [3])], x_label=name, y_label=name
        ),
        size_chart(
            name, {name: [(1, Dot(name, 0.1)), (9, Dot(name, 0.2))]}, y_label=name, reference=None
        ),
    ]
    for plot in plots:
        root = ElementTree.fromstring(plot)
        assert root.findtext("figcaption") == shown
        cells = [cell for cell in root.itertext() if "PPO" in cell]
        assert len(cells) > 3 and all(shown in cell for cell in cells)
    assert picture(tmp_path / "p.png", *plots).size[0] > 0
    assert escape("".join(refused)) == "\ufffd" * len(refused)
    kept = "".join(map(chr, range(0x10100)))
    for one in refused:
        kept = kept.replace(one, "")
    assert unescape(escape(kept)) == kept


def test_dots_stand_at_their_places_in_their_colours(tmp_path):
    dots = [Dot("a", 0.0, -0.5, 0.5, "one"), Dot("a", 1.0, 0.5, 1.5, "two")]
    image = picture(tmp_path / "dots.png", dot_plot("t", dots, x_label="x"))
    # In units of the drawing, of 2 pixels: the panel begins at 24, and its axis, which goes from
    # -0.58 to 1.58, after a name of one letter. The dots of the legend stand left of 72.
    left, right = 24 + 6.5 + 4 + 8, 24 + 360 - 56 - 8
    rows = []
    for colour, value in ((BLUE, 0.0), (ORANGE, 1.0)):
        found = [(x / 2, y / 2) for x, y in pixels(image, colour) if x / 2 > 72]
        xs, ys = zip(*found, strict=True)
        expected = left + (value + 0.58) / 2.16 * (right - left)
        assert abs((min(xs) + max(xs)) / 2 - expected) < 1
        rows.append((min(ys) + max(ys)) / 2)
    assert abs(rows[1] - rows[0] - 15) < 1


def test_panels_stand_beside_each_other_and_wrap(tmp_path):
    plot = bar_chart("t", [("a", 1.0)], x_label="s")
    sizes = [picture(tmp_path / "p.png", *[plot] * number).size for number in (1, 2, 3, 4, 5)]
    widths = [width for width, _ in sizes]
    assert widths == [2 * (n * 360 + (n + 1) * 24) for n in (1, 2, 3, 2, 3)]
    one, two, three, four, five = (height for _, height in sizes)
    assert one == two == three < four == five


def test_curves_are_dashed_as_on_the_page(tmp_path):
    models = {"whole": [(1.0, Dot("a", 0.2)), (10.0, Dot("b", 0.2))]}
    models["dashed"] = [(1.0, Dot("c", 0.8)), (10.0, Dot("d", 0.8))]
    plot = size_chart("t", models, y_label="y", reference=0.5)
    image = picture(tmp_path / "curves.png", plot)
    strokes = []
    for colour in (BLUE, ORANGE):
        found = {place for place in pixels(image, colour) if place[1] < 2 * 280}  # not the legend
        rows = [y for _, y in found]
        row = max(set(rows), key=rows.count)  # the curve is level: it has most of its colour there
        looked = range(2 * 100, 2 * 308)
        strokes.append(sum((x, row) in found and (x + 1, row) not in found for x in looked))
    # a stroke of 7 and a gap of 3 by turns: in 208 units 20.8
    assert strokes == [0, 21]


def test_the_words_of_a_page_are_in_its_picture(tmp_path):
    short = picture(tmp_path / "a.png", dot_plot("t", [Dot("a", 1.0)], x_label="x"))
    hostile = "<b> & \"quoted\" 'model' …"
    other = picture(tmp_path / "b.png", dot_plot(hostile, [Dot(hostile, 1.0)], x_label="x"))

    def ink(image):
        return sum(colour != WHITE for colour in image.get_flattened_data())

    assert short.size == other.size and ink(other) > ink(short) + 500
