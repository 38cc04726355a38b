"""Build reports as self-contained HTML files, with inline styles and SVG charts.

Pages need no script and no network: they open from disk and in an air-gapped cluster's UI, can be printed,
and support light and dark mode. Equal input gives equal bytes. All text is escaped; a `Block` is HTML that
this module, or a caller deliberately, created.
"""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from flowparts.reports._text import Block, cell, clean, numeric

_LEVELS = ("good", "bad", "note")


def page(title: str, *blocks: Block, subtitle: str = "") -> str:
    """Return a complete HTML document."""
    from jinja2 import Environment, PackageLoader

    templates = Environment(loader=PackageLoader("flowparts.reports", "."), autoescape=True, trim_blocks=True)
    return templates.get_template("page.html.j2").render(
        title=clean(title), subtitle=clean(subtitle), blocks=blocks
    )


def section(heading: str, *blocks: Block) -> Block:
    """Put blocks under a heading."""
    return Markup("<section><h2>{}</h2>\n{}</section>").format(clean(heading), Markup("\n").join(blocks))


def grid(*blocks: Block, narrow: bool = False) -> Block:
    """Lay blocks out as cards, side by side if there is space: two to a row, or three narrow ones."""
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
    """Show key figures as tiles: name -> value."""
    tiles = []
    for name, value in values.items():
        text = cell(value)
        size = "" if isinstance(value, Markup) or len(text) <= 12 else "long"
        tiles.append(
            Markup('<div><dt>{}</dt><dd class="{}">{}</dd></div>').format(clean(str(name)), size, text)
        )
    return Markup('<dl class="facts">{}</dl>').format(Markup("").join(tiles))


def table(rows: Sequence[Mapping[str, object]], caption: str = "") -> Block:
    """Show rows with the same keys as a table; numeric columns are right-aligned, cells may be Blocks."""
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
    """Show a highlighted message.

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
    """Return a coloured label for a table cell or a heading; its level is "good", "bad" or "note"."""
    return Markup('<span class="tag {}">{}</span>').format(level, clean(text))


def _breaking(text: str) -> str:
    """Return the style that lets words break, for very long ones only; in narrow columns any word would."""
    return "long" if any(len(word) > 28 for word in text.split()) and not isinstance(text, Markup) else ""
