"""The pdf-tools server's tools as the benchmarks pin them: the nine of pdf-tools-mcp 0.1.4.

Every answer is text, also of what went wrong; only what a limit ended is an error.
"""

import functools
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from pytest_klavis.embedded.tools.base import ToolContext, ToolResult, text_part
from pytest_klavis.embedded.tools.pdf.files import PdfError, is_url, work
from pytest_klavis.embedded.tools.schema import Flavour, Schema

SEARCHES = 20  # that a sandbox remembers; the one that was not used for longest goes first
PATTERN_SECONDS = 10.0  # for a pattern on all of a file's text
_MANY_PAGES = 50
_PAGE_SIZES = range(10, 51)
_NO_URL = "Error: Output path cannot be a URL, must be a local file path"

PdfPath = Annotated[str, Field(description="Path to the PDF file")]
OutputPath = Annotated[str, Field(description="Path where the new PDF is saved")]
SearchId = Annotated[str, Field(description="Search session ID from previous search")]


class _Said(Exception):  # noqa: N818 - an answer like others
    """The whole answer."""


@dataclass
class Search:
    """What a search found: (page, text, before, after) of the matches that are kept, out of `total`."""

    path: str
    pattern: str
    found: list[tuple[int, str, str, str]]
    total: int
    size: int
    page: int = 1
    used: float = field(default_factory=time.time)

    @property
    def pages(self) -> int:
        return -(-len(self.found) // self.size)

    @property
    def counted(self) -> str:
        kept = "" if len(self.found) == self.total else f" (the first {len(self.found)} are kept)"
        return f"Pattern: {self.pattern}\nTotal matches: {self.total}{kept}\n"

    @property
    def matches(self) -> str:
        first = (self.page - 1) * self.size
        return "".join(
            f'Match {number}:\n  Page: {page}\n  Text: "{text}"\n  Context: ...{before}[{text}]{after}...\n\n'
            for number, (page, text, before, after) in enumerate(self.found[first : first + self.size], first + 1)
        )

    def turn(self, search_id: str, page: int) -> str:
        self.page = page
        return f"Search ID: {search_id}\n{self.counted}Page: {page}/{self.pages}\n\n{self.matches}"


def _answered(function: Callable[..., Awaitable[str]]) -> Callable[..., Awaitable[ToolResult]]:
    """The text as the result of a tool."""

    @functools.wraps(function)
    async def answered(*arguments: Any, **named: Any) -> ToolResult:
        try:
            text = await function(*arguments, **named)
        except _Said as said:
            text = str(said)
        return ToolResult([text_part(text)], {"result": text})

    return answered


async def read_pdf_pages(
    context: ToolContext,
    pdf_file_path: PdfPath,
    start_page: Annotated[int, Field(description="Starting page number")] = 1,
    end_page: Annotated[int, Field(description="Ending page number")] = 1,
) -> str:
    """Read content from PDF file for specified page range. Avoid reading too many pages at once (recommended: fewer
    than 50). The file must be in the workspace: there is no network to read a URL."""
    warning = ""
    if end_page - start_page > _MANY_PAGES:
        warning = "Warning: Reading more than 50 pages at once may cause performance issues or errors.\n"
    try:
        found = await work(context, "read", [pdf_file_path], start=start_page, end=end_page)
    except PdfError as error:
        if error.kind == "read":
            return f"{warning}Error processing PDF: {error}"
        if error.kind == "denied":
            return f"Error: No permission to read file '{pdf_file_path}'"
        return _failed(context, error, pdf_file_path, "reading PDF file")
    texts = [f"=== Page {number} ===\n{text}" for number, text in found["pages"] if text.strip()]
    total, pages = f"PDF total pages: {found['total']}", f"{found['first']}-{found['last']}"
    if not texts:
        return f"{warning}{total}\nSpecified page range ({pages}) has no extractable text content."
    cut = f"\n\n[... truncated in page {found['pages'][-1][0]} ...]" if found["cut"] else ""
    return f"{warning}{total}\nExtracted page range: {pages}\n\n" + "\n\n".join(texts) + cut


async def get_pdf_info(context: ToolContext, pdf_file_path: PdfPath) -> str:
    """Get basic information about a PDF file including page count."""
    try:
        found = await work(context, "info", [pdf_file_path])
    except PdfError as error:
        return _failed(context, error, pdf_file_path, "getting PDF information")
    text = f"PDF file information:\nTotal pages: {found['total']}\n"
    about = found["about"]
    if about is not None:
        names = {"Title": "Title", "Author": "Author", "Creator": "Creator", "Creation date": "CreationDate"}
        text += "".join(f"{name}: {about.get(key, 'Unknown')}\n" for name, key in names.items())
    return text


async def merge_pdfs(
    context: ToolContext,
    pdf_paths: Annotated[list[str], Field(description="List of paths to PDF files to merge (in order)")],
    output_path: OutputPath,
) -> str:
    """Merge multiple PDF files of the workspace into one."""
    if is_url(output_path) and not any(map(is_url, pdf_paths)):
        return _NO_URL
    try:
        found = await work(context, "merge", pdf_paths, output=output_path)
    except PdfError as error:
        if error.kind in {"url", "outside", "write"}:
            return _failed(context, error, "", "merging PDFs", f"path '{error.given}'")
        return f"Error reading PDF '{error.given}': {error}"
    return f"Successfully merged {len(pdf_paths)} PDFs into '{output_path}'\nTotal pages: {found['total']}"


async def extract_pdf_pages(
    context: ToolContext,
    source_path: Annotated[str, Field(description="Path to the source PDF file")],
    page_numbers: Annotated[list[int], Field(description="List of page numbers to extract (1-indexed)")],
    output_path: OutputPath,
) -> str:
    """Extract specific pages from a PDF of the workspace and create a new PDF. Pages that are not there are left
    out."""
    if is_url(output_path) and not is_url(source_path):
        return _NO_URL
    try:
        found = await work(context, "extract", [source_path], output=output_path, pages=page_numbers, all=False)
    except PdfError as error:
        return _failed(context, error, source_path, "extracting pages", "source path")
    total = found["total"]
    taken = [number for number in page_numbers if 1 <= number <= total]
    if not taken:
        return f"Error: No valid pages to extract from PDF (total pages: {total})"
    done = f"Successfully extracted {len(taken)} pages from '{source_path}' to '{output_path}'"
    return f"{done}\nExtracted pages: {taken}\nSource PDF total pages: {total}"


async def search_pdf_content(
    context: ToolContext,
    pdf_file_path: PdfPath,
    pattern: Annotated[str, Field(description="Regular expression pattern to search for")],
    page_size: Annotated[int, Field(description="Number of results per page (10-50)")] = 10,
) -> str:
    """Search for regex pattern in PDF content and return paginated results, with a search ID for more pages."""
    warning = ""
    if page_size not in _PAGE_SIZES:
        warning = f"Warning: Page size {page_size} is out of range (10-50). Using default value 10.\n"
        page_size = 10
    seconds = min(PATTERN_SECONDS, context.limits.wall_seconds / 4)
    try:
        found = await work(context, "search", [pdf_file_path], pattern=pattern, seconds=seconds)
    except PdfError as error:
        if error.kind in {"url", "outside"}:
            return _failed(context, error, pdf_file_path, "searching PDF")
        return f"Error: Could not extract text from PDF or PDF is empty ({error})"
    if "slow" in found:
        return f"Error searching PDF: the pattern took more than {seconds:g} seconds; use a simpler one"
    if not found["count"]:
        reason = f" (it is not a valid regular expression: {found['invalid']})" if "invalid" in found else ""
        return f"No matches found for pattern: {pattern}{reason}"
    search = Search(pdf_file_path, pattern, found["found"], found["count"], page_size)
    search_id = secrets.token_hex(4)
    known = _searches(context)
    known[search_id] = search
    if len(known) > SEARCHES:
        del known[min(known, key=lambda item: known[item].used)]
    head = f"{warning}Search ID: {search_id}\n{search.counted}Page: 1/{search.pages}\n"
    text = f"{head}Results per page: {page_size}\n\n{search.matches}"
    if search.pages > 1:
        tools = "search_pdf_next_page, search_pdf_prev_page, or search_pdf_go_page"
        text += f"Use {tools} with search_id '{search_id}' to navigate."
    return text


async def search_pdf_next_page(context: ToolContext, search_id: SearchId) -> str:
    """Get next page of search results."""
    search = _search(context, search_id)
    if search.page >= search.pages:
        return f"Already on last page ({search.page}/{search.pages})"
    return search.turn(search_id, search.page + 1)


async def search_pdf_prev_page(context: ToolContext, search_id: SearchId) -> str:
    """Get previous page of search results."""
    search = _search(context, search_id)
    if search.page <= 1:
        return "Already on first page (1)"
    return search.turn(search_id, search.page - 1)


async def search_pdf_go_page(
    context: ToolContext,
    search_id: SearchId,
    page_number: Annotated[int, Field(description="Page number to go to (1-indexed)")],
) -> str:
    """Go to specific page of search results."""
    search = _search(context, search_id)
    if not 1 <= page_number <= search.pages:
        return f"Error: Page number {page_number} is out of range (1-{search.pages})"
    return search.turn(search_id, page_number)


async def search_pdf_info(context: ToolContext, search_id: SearchId) -> str:
    """Get information about a search session."""
    search = _search(context, search_id)
    used = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(search.used))
    return (
        f"Search Session Information:\nSearch ID: {search_id}\nPDF Path: {search.path}\n{search.counted}"
        f"Current page: {search.page}/{search.pages}\nResults per page: {search.size}\nLast accessed: {used}\n"
    )


def _searches(context: ToolContext) -> dict[str, Search]:
    known: dict[str, Search] = context.state.setdefault("searches", {})
    return known


def _search(context: ToolContext, search_id: str) -> Search:
    search = _searches(context).get(search_id)
    if search is None:
        raise _Said(f"Error: Search session '{search_id}' not found or expired")
    search.used = time.time()
    return search


def _failed(context: ToolContext, error: PdfError, given: str, doing: str, resolving: str = "path") -> str:
    if error.kind == "url":
        return f"Error resolving {resolving}: Failed to download PDF from URL: {error}"
    if error.kind == "outside":
        return f"Error: Path '{error}' is outside the allowed workspace '{context.root}'"
    if error.kind == "missing":
        return f"Error: File not found '{given}'"
    return f"Error {doing}: {error}"


_RESULT: Schema = {"properties": {"result": {"type": "string"}}, "required": ["result"], "type": "object"}
_FUNCTIONS = {
    function.__name__: _answered(function)
    for function in (
        read_pdf_pages,
        get_pdf_info,
        merge_pdfs,
        extract_pdf_pages,
        search_pdf_content,
        search_pdf_next_page,
        search_pdf_prev_page,
        search_pdf_go_page,
        search_pdf_info,
    )
}

UPSTREAM = Flavour(functions=_FUNCTIONS, outputs=dict.fromkeys(_FUNCTIONS, _RESULT), strict=False)
