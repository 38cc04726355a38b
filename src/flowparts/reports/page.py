"""Pages for people: one self-contained HTML file each, with inline styles and SVG charts.

No script and no network: a page opens from disk, in an air-gapped cluster's UI and on paper, in light and in
dark. Equal input gives equal bytes. Text is escaped wherever it comes from; a `Block` is HTML that this
module, or a caller knowingly, has made.
"""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from flowparts.reports._text import Block, cell, clean, numeric

_LEVELS = ("good", "bad", "note")


def page(title: str, *blocks: Block, subtitle: str = "") -> str:
    """Return a whole HTML document."""
    from jinja2 import Environment, PackageLoader

    templates = Environment(loader=PackageLoader("flowparts.reports", "."), autoescape=True, trim_blocks=True)
    return templates.get_template("page.html.j2").render(
        title=clean(title), subtitle=clean(subtitle), blocks=blocks
    )


def section(heading: str, *blocks: Block) -> Block:
    """Put blocks under a heading."""
    return Markup("<section><h2>{}</h2>\n{}</section>").format(clean(heading), Markup("\n").join(blocks))


def grid(*blocks: Block, narrow: bool = False) -> Block:
    """Lay blocks out as cards, side by side where there is room: two to a row, or three narrow ones."""
    cells = (Markup('<div class="cell">{}</div>').format(block) for block in blocks)
    style = "grid narrow" if narrow else "grid"
    return Markup('<div class="{}">{}</div>').format(style, Markup("\n").join(cells))


def pictures(captioned: Sequence[tuple[bytes, str]]) -> Block:
    """Show encoded images side by side, each with a caption."""
    from flowparts.util import images

    cells = (
        Markup('<figure><img src="data:{};base64,{}" alt="{}"><figcaption>{}</figcaption></figure>').format(
            images.media_type(content), images.to_text(content), clean(caption), clean(caption)
        )
        for content, caption in captioned
    )
    return Markup('<div class="pictures">{}</div>').format(Markup("\n").join(cells))


def facts(values: Mapping[str, object]) -> Block:
    """Show a few numbers that matter as tiles: name -> value."""
    tiles = []
    for name, value in values.items():
        text = cell(value)
        size = "" if isinstance(value, Markup) or len(text) <= 12 else "long"
        tiles.append(
            Markup('<div><dt>{}</dt><dd class="{}">{}</dd></div>').format(clean(str(name)), size, text)
        )
    return Markup('<dl class="facts">{}</dl>').format(Markup("").join(tiles))


def table(rows: Sequence[Mapping[str, object]], caption: str = "") -> Block:
    """Show rows of equal keys; a column of numbers is aligned right, a cell may be a Block."""
    if not rows:
        return Markup('<p class="muted">{}</p>').format(clean(f"{caption}: none" if caption else "None."))
    names = list(dict.fromkeys(name for row in rows for name in row))
    classes = {name: "number" if numeric(row.get(name) for row in rows) else "" for name in names}
    head = Markup("").join(
        Markup('<th scope="col" class="{}" title="{}">{}</th>').format(classes[name], text, text)
        for name in names
        for text in [clean(str(name))]
    )
    body = Markup("\n").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(
                Markup('<td class="{}">{}</td>').format(classes[name] or _breaking(text), text)
                for name in names
                for text in [cell(row.get(name, ""))]
            )
        )
        for row in rows
    )
    title = Markup("<caption>{}</caption>").format(clean(caption)) if caption else Markup("")
    return Markup(
        '<div class="table"><table>{}<thead><tr>{}</tr></thead>\n<tbody>{}</tbody></table></div>'
    ).format(title, head, body)


def callout(text: str, level: str = "note") -> Block:
    """Say one thing that the reader must not miss.

    Args:
        text: The message; a Block may hold markup.
        level: "good", "bad" or "note".
    """
    if level not in _LEVELS:
        raise ValueError(f"callout level {level!r} is not one of: {', '.join(_LEVELS)}")
    sign = {"good": "✓", "bad": "!", "note": "i"}[level]
    return Markup('<div class="callout {}" role="note"><b>{}</b>&ensp;{}</div>').format(
        level, sign, text if isinstance(text, Markup) else clean(text)
    )


def tag(text: str, level: str = "note") -> Block:
    """Mark something in a table or a heading with a word: "good", "bad" or "note"."""
    return Markup('<span class="tag {}">{}</span>').format(level, clean(text))


def _breaking(text: str) -> str:
    """Let only text with a very long word break inside words; else narrow columns would tear short ones."""
    return "long" if any(len(word) > 28 for word in text.split()) and not isinstance(text, Markup) else ""
