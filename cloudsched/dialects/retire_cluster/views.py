"""Which shape does a list have? The document's by default, the list view where a client shows that it knows it (contract 8)."""

from __future__ import annotations

from typing import Any, NamedTuple

from cloudsched.dialects.retire_cluster import params, schemas
from cloudsched.dialects.retire_cluster.routing import Call

PRODUCT = "retire-cluster-python-client/"
PAGE_SIZE, PAGE_SIZE_MOST = 20, 100
VIEW = (params.Word("view", ("document", "list")),
        params.Whole("page", 1, None, None), params.Whole("page_size", 1, None, None, cap=PAGE_SIZE_MOST))


class Page(NamedTuple):
    """Which part of a list is wanted."""

    page: int
    size: int

    @property
    def offset(self) -> int:
        return (self.page - 1) * self.size

    def pagination(self, total: int) -> schemas.Pagination:
        """Where this page is among all."""
        pages = -(-total // self.size)
        return schemas.Pagination(page=self.page, page_size=self.size, total_items=total, total_pages=pages,
                                  has_next=self.page < pages, has_previous=self.page > 1)


def page_of(call: Call, *telling: str) -> Page | None:
    """The page of the list view; None: the document view. `telling`: further parameters that only the list view has."""
    query = call.query
    if query["view"] == "document":
        return None
    told = any(_given(query[name]) for name in ("page", "page_size", *telling))
    product = call.environ.get("HTTP_USER_AGENT", "").startswith(PRODUCT)
    if not (told or product or query["view"] == "list"):
        return None
    return Page(query["page"] or 1, query["page_size"] or PAGE_SIZE)


def _given(value: Any) -> bool:
    return value is not None and value != ()
