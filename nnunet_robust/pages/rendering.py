"""What the report's pages share: the templates' environment, links that hold a CSV, tables as templates take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from nnunet_robust import __version__
from nnunet_robust.pages.tables import ReportTable, csv_text

_TEMPLATES = Path(__file__).parent / "templates"


def environment() -> jinja2.Environment:
    """What renders the templates: everything is escaped, nothing may be undefined."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["breakable"] = breakable
    made.filters["capital"] = capital
    return made


def render(template: str, **values: Any) -> str:
    """Render a page of a template, with the version of this package; the same values give the same bytes."""
    return environment().get_template(template).render(version=__version__, **values)


def breakable(text: str) -> Markup:
    """Escaped text whose long names (nnUNetTrainerNoSkip_2epochs_50iters) may break after an underscore."""
    return escape(text).replace("_", Markup("_<wbr>"))


def capital(text: str) -> str:
    """A text that begins with a capital; a trainer's name stays what it is."""
    return text if text.startswith("nnU") else text[:1].upper() + text[1:]


def csv_link(data: pd.DataFrame, name: str, what: str) -> dict[str, str]:
    """A link that holds a table: nothing else is needed to save it."""
    return {
        "uri": "data:text/csv;charset=utf-8," + quote(csv_text(data), safe=",-._"),
        "name": f"{name}.csv",
        "what": what,
    }


def table_data(table: ReportTable) -> dict[str, Any]:
    """A table as `page_macros.html.j2` shows it."""
    return {
        "name": table.name,
        "title": table.title,
        "note": table.note,
        "columns": [{"heading": column.heading, "is_number": table.is_number(column)} for column in table.columns],
        "rows": list(table.cells()),
        "csv": csv_link(table.data, table.name, table.title),
    }
