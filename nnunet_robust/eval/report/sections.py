"""A section of the page: figures, lists of sentences and tables, as the template takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from nnunet_robust.eval.report.analysis import Analysis
from nnunet_robust.pages.rendering import capital, table_data
from nnunet_robust.pages.tables import ReportTable

Lists = Callable[[Analysis], list[dict[str, Any]]]
"""An analysis -> lists of sentences, each with `title` and `lines`."""


class Section(NamedTuple):
    """What stands in a section, and what is said there.

    Attributes:
        name: for ids; that of its tables' `section`.
        title: heading.
        short: for the contents.
        groups: of figures; those that there are, the names in `opened` not folded away.
        opened: groups that stand open.
        text: paragraphs.
    """

    name: str
    title: str
    short: str
    groups: tuple[str, ...]
    opened: tuple[str, ...]
    text: tuple[str, ...]


def filled(
    sections: Sequence[Section],
    titles: Mapping[str, str],
    lists: Mapping[str, Lists],
    analysis: Analysis,
    drawn: Mapping[str, Any],
    tables: Sequence[ReportTable],
) -> Iterator[dict[str, Any]]:
    """The sections that have something to show, for the template.

    Args:
        sections: in their order.
        titles: group of figures -> its title.
        lists: section -> its sentences.
        analysis: of the report.
        drawn: group -> its figures, as `page` draws them.
        tables: of the report.
    """
    for section in sections:
        groups = [name for name in section.groups if name in drawn]
        own = [table for table in tables if table.section == section.name]
        if not groups and not own:
            continue
        opened = [name for name in groups if name in section.opened] or groups[:1]
        yield {
            "id": section.name,
            "title": section.title,
            "short": section.short,
            "text": section.text,
            "groups": [
                {"title": capital(titles[name]), "open": name in opened, "panels": drawn[name]} for name in groups
            ],
            "tables": [table_data(table) for table in own],
            "lists": lists[section.name](analysis) if section.name in lists else [],
        }
