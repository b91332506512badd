"""What renders the templates of all pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from nnunet_robust import __version__

_TEMPLATES = Path(__file__).parent / "templates"


def environment() -> jinja2.Environment:
    """The environment of the templates: everything is escaped, nothing may be undefined."""
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
