"""The pdf-tools server's tools: Klavis's three, after its pdf-tools 1.0.0. Every answer is JSON, errors too."""

import json
from typing import Annotated, Any

from pydantic import Field

from pytest_klavis.embedded.tools.base import ToolContext, ToolResult, text_part
from pytest_klavis.embedded.tools.pdf.files import PdfError, work
from pytest_klavis.embedded.tools.schema import Flavour

InWorkspace = Annotated[str, Field(description="Relative path to the PDF file within the workspace directory")]
_KEYS = {
    "title": "Title",
    "author": "Author",
    "subject": "Subject",
    "creator": "Creator",
    "producer": "Producer",
    "creation_date": "CreationDate",
}


async def read_pdf(context: ToolContext, file_path: InWorkspace) -> ToolResult:
    """Read and extract text content from a PDF file. Returns metadata and text from all pages."""
    if not file_path:
        return _text("Error: file_path parameter is required")
    try:
        found = await work(context, "read", [file_path], about=True)
    except PdfError as error:
        failure = "Failed to read PDF" if error.kind == "read" else "Unexpected error"
        return _failed(error, failure, f"File not found: {file_path}")
    answer = {
        "file_path": file_path,
        "num_pages": found["total"],
        "metadata": _metadata(found["about"]),
        "pages": [{"page_number": number, "text": text} for number, text in found["pages"]],
    }
    return _json(answer | _note(found, "pages", len(found["pages"]), found["total"]))


async def get_pdf_info(context: ToolContext, file_path: InWorkspace) -> ToolResult:
    """Get metadata and information about a PDF file without extracting full text content."""
    if not file_path:
        return _text("Error: file_path parameter is required")
    try:
        found = await work(context, "info", [file_path], sizes=True)
    except PdfError as error:
        return _failed(error, "Failed to get PDF info", f"File not found: {file_path}")
    sizes = enumerate(found["sizes"], 1)
    answer = {
        "file_path": file_path,
        "num_pages": found["total"],
        "metadata": _metadata(found["about"]),
        "page_sizes": [{"page": page, "width": width, "height": height} for page, (width, height) in sizes],
        "is_encrypted": found["encrypted"],
    }
    return _json(answer | _note(found, "page_sizes", len(found["sizes"]), found["total"]))


async def extract_pages(
    context: ToolContext,
    input_file: Annotated[str, Field(description="Relative path to the input PDF file")],
    output_file: Annotated[str, Field(description="Relative path for the output PDF file")],
    page_numbers: Annotated[list[int], Field(description="Array of page numbers to extract (1-indexed)")],
) -> ToolResult:
    """Extract specific pages from a PDF and create a new PDF file."""
    if not (input_file and output_file and page_numbers):
        return _text("Error: input_file, output_file, and page_numbers are required")
    try:
        found = await work(context, "extract", [input_file], output=output_file, pages=page_numbers, all=True)
    except PdfError as error:
        return _failed(error, "Failed to extract pages", f"Input file not found: {input_file}")
    for number in page_numbers:
        if not 1 <= number <= found["total"]:
            return _json({"error": f"Invalid page number {number}. PDF has {found['total']} pages."})
    count = len(page_numbers)
    return _json(
        {
            "success": True,
            "output_file": output_file,
            "pages_extracted": count,
            "message": f"Successfully extracted {count} pages to {output_file}",
        }
    )


def _metadata(about: dict[str, str] | None) -> dict[str, str]:
    return {} if about is None else {name: about.get(key, "") for name, key in _KEYS.items()}


def _note(found: dict[str, Any], what: str, given: int, total: int) -> dict[str, str]:
    """Upstream answers with all there is, however much."""
    return {"truncated": f"{what} holds what fits into one answer: up to {given} of {total}"} if found["cut"] else {}


def _failed(error: PdfError, failure: str, missing: str) -> ToolResult:
    if error.kind == "missing":
        return _json({"error": missing})
    if error.kind == "outside":
        return _json({"error": f"{failure}: Access denied: {error} is outside workspace directory"})
    return _json({"error": f"{failure}: {error}"})


def _json(answer: dict[str, Any]) -> ToolResult:
    return _text(json.dumps(answer, indent=2))


def _text(text: str) -> ToolResult:
    return ToolResult([text_part(text)])


KLAVIS = Flavour(
    functions={"read_pdf": read_pdf, "get_pdf_info": get_pdf_info, "extract_pages": extract_pages},
    prefix="pdf_tools_",
    annotations={"read_pdf": {"readOnlyHint": True}, "get_pdf_info": {"readOnlyHint": True}, "extract_pages": {}},
)
