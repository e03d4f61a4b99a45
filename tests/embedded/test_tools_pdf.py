"""The pdf-tools server's tools in both flavours, in real isolation, on honest files and on hostile ones."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pypdf
import pytest
from pypdf import PdfReader, PdfWriter

from pytest_klavis.embedded.tools import tools
from pytest_klavis.embedded.tools.pdf import upstream
from tests.embedded.isolation_support import LEVELS
from tests.embedded.pdf_support import assemble, page_tree, pdf, stream
from tests.embedded.sandboxed import Box, new_box

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
TEXTS = ["Hello world\nsecond (line)", "", "Third page\nlast \\ line"]


@pytest.fixture(scope="module", params=LEVELS)
def every(request: pytest.FixtureRequest) -> Iterator[Box]:
    """A box of every level, for what isolation has a part in."""
    with new_box(request.param) as box:
        fill(box)
        yield box


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    with new_box() as box:
        fill(box)
        yield box


def fill(box: Box) -> None:
    put(box, "a.pdf", pdf(TEXTS, info={"Title": "Report", "Author": "Ada", "CreationDate": "D:2000"}))
    put(box, "b.pdf", pdf(["one two one"], size=(200, 100)))


def put(box: Box, name: str, data: bytes) -> None:
    box.files.write_bytes(name, data, parents=True)


def pages(box: Box, name: str) -> list[str]:
    """The texts of a file's pages, read here, not by the server."""
    return [page.extract_text() for page in PdfReader(io.BytesIO((box.workspace / name).read_bytes())).pages]


def klavis(box: Box, name: str, **arguments: Any) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(box.text("pdf-tools", f"pdf_tools_{name}", benchmark=None, **arguments))
    return answer


def ask(box: Box, name: str, **arguments: Any) -> str:
    result = box.call("pdf-tools", name, "Toolathlon", **arguments)
    assert not result.is_error, result
    (part,) = result.content
    assert result.structured == {"result": part["text"]}
    return str(part["text"])


# --- Klavis's three


def test_reading_a_file(every: Box) -> None:
    answer = klavis(every, "read_pdf", file_path="a.pdf")
    assert answer["file_path"] == "a.pdf"
    assert answer["num_pages"] == 3
    known = {"title": "Report", "author": "Ada", "creation_date": "D:2000"}
    assert answer["metadata"] == {"subject": "", "creator": "", "producer": "", **known}
    assert answer["pages"] == [{"page_number": number, "text": text} for number, text in enumerate(TEXTS, 1)]
    assert klavis(every, "read_pdf", file_path=f"{every.root}/b.pdf")["metadata"] == {}


def test_looking_at_a_file(box: Box) -> None:
    answer = klavis(box, "get_pdf_info", file_path="b.pdf")
    assert answer == {
        "file_path": "b.pdf",
        "num_pages": 1,
        "metadata": {},
        "page_sizes": [{"page": 1, "width": 200.0, "height": 100.0}],
        "is_encrypted": False,
    }


def test_taking_pages_out(every: Box) -> None:
    made = klavis(every, "extract_pages", input_file="a.pdf", output_file="new/dir/out.pdf", page_numbers=[3, 1])
    assert made == {
        "success": True,
        "output_file": "new/dir/out.pdf",
        "pages_extracted": 2,
        "message": "Successfully extracted 2 pages to new/dir/out.pdf",
    }
    assert pages(every, "new/dir/out.pdf") == [TEXTS[2], TEXTS[0]]
    if os.geteuid() == 0:
        assert (every.workspace / "new/dir/out.pdf").stat().st_uid == every.jail.uid
    none = klavis(every, "extract_pages", input_file="a.pdf", output_file="none.pdf", page_numbers=[1, 4])
    assert none == {"error": "Invalid page number 4. PDF has 3 pages."}
    assert not (every.workspace / "none.pdf").exists()


@pytest.mark.parametrize(
    ("path", "read", "about"),
    [
        ("none.pdf", "File not found: none.pdf", "File not found: none.pdf"),
        (
            "../a.pdf",
            "Unexpected error: Access denied: ../a.pdf is outside workspace directory",
            "Failed to get PDF info: Access denied: ../a.pdf is outside workspace directory",
        ),
        (
            "http://example.org/x.pdf",
            "Unexpected error: this sandbox has no network (http://example.org/x.pdf)",
            "Failed to get PDF info: this sandbox has no network",
        ),
    ],
)
def test_files_that_klavis_tools_cannot_use(box: Box, path: str, read: str, about: str) -> None:
    assert klavis(box, "read_pdf", file_path=path)["error"].startswith(read)
    assert klavis(box, "get_pdf_info", file_path=path)["error"].startswith(about)


def test_arguments_that_are_missing_or_empty(box: Box) -> None:
    said = box.text("pdf-tools", "pdf_tools_read_pdf", benchmark=None, file_path="")
    assert said == "Error: file_path parameter is required"
    said = box.text(
        "pdf-tools", "pdf_tools_extract_pages", benchmark=None, input_file="a.pdf", output_file="o.pdf", page_numbers=[]
    )
    assert said == "Error: input_file, output_file, and page_numbers are required"
    assert "file_path: Field required" in box.failure("pdf-tools", "pdf_tools_read_pdf", benchmark=None)


# --- the nine of the benchmarks


def test_reading_pages(box: Box) -> None:
    head = "PDF total pages: 3\nExtracted page range: 1-3\n\n"
    whole = f"{head}=== Page 1 ===\n{TEXTS[0]}\n\n=== Page 3 ===\n{TEXTS[2]}"
    assert ask(box, "read_pdf_pages", pdf_file_path="a.pdf", end_page=3) == whole
    assert ask(box, "read_pdf_pages", pdf_file_path="a.pdf", start_page=99, end_page=-1) == whole
    assert ask(box, "read_pdf_pages", pdf_file_path="a.pdf", start_page="2", end_page=2) == (
        "PDF total pages: 3\nSpecified page range (2-2) has no extractable text content."
    )
    assert ask(box, "read_pdf_pages", pdf_file_path="a.pdf", end_page=52).startswith("Warning: Reading more than 50")


def test_facts_about_a_file(box: Box) -> None:
    assert ask(box, "get_pdf_info", pdf_file_path="a.pdf") == (
        "PDF file information:\nTotal pages: 3\nTitle: Report\nAuthor: Ada\nCreator: Unknown\nCreation date: D:2000\n"
    )
    assert ask(box, "get_pdf_info", pdf_file_path="b.pdf") == "PDF file information:\nTotal pages: 1\n"


def test_merging_and_extracting(every: Box) -> None:
    said = ask(every, "merge_pdfs", pdf_paths=["b.pdf", "a.pdf"], output_path="m.pdf")
    assert said == "Successfully merged 2 PDFs into 'm.pdf'\nTotal pages: 4"
    assert pages(every, "m.pdf") == ["one two one", *TEXTS]
    said = ask(every, "extract_pdf_pages", source_path="m.pdf", page_numbers=[4, 9, 1], output_path="m.pdf")
    assert said == (
        "Successfully extracted 2 pages from 'm.pdf' to 'm.pdf'\nExtracted pages: [4, 1]\nSource PDF total pages: 4"
    )
    assert pages(every, "m.pdf") == [TEXTS[2], "one two one"]
    said = ask(every, "extract_pdf_pages", source_path="m.pdf", page_numbers=[7], output_path="none.pdf")
    assert said == "Error: No valid pages to extract from PDF (total pages: 2)"
    assert not (every.workspace / "none.pdf").exists()


def test_searching_page_by_page(box: Box) -> None:
    put(box, "many.pdf", pdf(["needle " * 12, "no", "NEEDLE " * 13]))
    first = ask(box, "search_pdf_content", pdf_file_path="many.pdf", pattern="needle")
    found = re.match(r"Search ID: ([0-9a-f]{8})\nPattern: needle\nTotal matches: 25\nPage: 1/3\n", first)
    assert found, first
    search = found[1]
    assert 'Match 1:\n  Page: 1\n  Text: "needle"\n  Context: ...[needle] needle' in first
    assert first.endswith(f"search_pdf_go_page with search_id '{search}' to navigate.")
    second = ask(box, "search_pdf_next_page", search_id=search)
    assert second.startswith(f"Search ID: {search}\nPattern: needle\nTotal matches: 25\nPage: 2/3\n\nMatch 11:\n")
    assert "Page: 3/3" in ask(box, "search_pdf_go_page", search_id=search, page_number=3)
    assert ask(box, "search_pdf_next_page", search_id=search) == "Already on last page (3/3)"
    assert "Page: 2/3" in ask(box, "search_pdf_prev_page", search_id=search)
    assert "Page: 1/3" in ask(box, "search_pdf_prev_page", search_id=search)
    assert ask(box, "search_pdf_prev_page", search_id=search) == "Already on first page (1)"
    said = ask(box, "search_pdf_go_page", search_id=search, page_number=4)
    assert said == "Error: Page number 4 is out of range (1-3)"
    about = ask(box, "search_pdf_info", search_id=search)
    assert f"Search ID: {search}\nPDF Path: many.pdf\nPattern: needle\nTotal matches: 25\nCurrent page: 1/3\n" in about
    said = "Error: Search session 'zz' not found or expired"
    for name in ("next_page", "prev_page", "info"):
        assert ask(box, f"search_pdf_{name}", search_id="zz") == said


def test_searches_that_find_nothing_or_are_none(box: Box) -> None:
    assert ask(box, "search_pdf_content", pdf_file_path="a.pdf", pattern="zzz") == "No matches found for pattern: zzz"
    said = ask(box, "search_pdf_content", pdf_file_path="a.pdf", pattern="(a")
    assert said.startswith("No matches found for pattern: (a (it is not a valid regular expression: missing )")
    said = ask(box, "search_pdf_content", pdf_file_path="a.pdf", pattern="^third", page_size=51)
    assert said.startswith("Warning: Page size 51 is out of range (10-50). Using default value 10.\nSearch ID: ")
    changed = pdf(["other"])
    put(box, "changed.pdf", pdf(["before"]))
    assert "Total matches: 1" in ask(box, "search_pdf_content", pdf_file_path="changed.pdf", pattern="before")
    put(box, "changed.pdf", changed)
    assert ask(box, "search_pdf_content", pdf_file_path="changed.pdf", pattern="before").startswith("No matches")


def test_old_searches_are_forgotten(box: Box) -> None:
    def old(number: int) -> upstream.Search:
        return upstream.Search("b.pdf", "one", [(1, "one", "", "")], 1, 10, used=float(number))

    box.states["pdf-tools"] = {"searches": {f"s{number}": old(number) for number in range(upstream.SEARCHES)}}
    assert "Total matches: 1\n" in ask(box, "search_pdf_info", search_id="s0")  # which makes s1 the oldest
    newest = ask(box, "search_pdf_content", pdf_file_path="b.pdf", pattern="one").split()[2]
    assert len(box.states["pdf-tools"]["searches"]) == upstream.SEARCHES
    assert "not found or expired" in ask(box, "search_pdf_info", search_id="s1")
    for kept in ("s0", "s2", newest):
        assert "Total matches" in ask(box, "search_pdf_info", search_id=kept)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("none.pdf", "Error: File not found 'none.pdf'"),
        ("", "Error: File not found ''"),
        ("../a.pdf", "Error: Path '../a.pdf' is outside the allowed workspace '{root}'"),
        ("/etc/passwd", "Error: Path '/etc/passwd' is outside the allowed workspace '{root}'"),
        (
            "https://example.org/x.pdf",
            "Error resolving {kind}path: Failed to download PDF from URL: this sandbox has no",
        ),
    ],
)
def test_files_that_cannot_be_used(box: Box, path: str, said: str) -> None:
    expected = said.format(root=box.root, kind="")
    assert ask(box, "get_pdf_info", pdf_file_path=path).startswith(expected)
    assert ask(box, "read_pdf_pages", pdf_file_path=path).startswith(expected)
    text = ask(box, "extract_pdf_pages", source_path=path, page_numbers=[1], output_path="x.pdf")
    assert text.startswith(said.format(root=box.root, kind="source "))
    text = ask(box, "merge_pdfs", pdf_paths=["a.pdf", path], output_path="x.pdf")
    assert text.startswith("Error")
    assert f"'{path}'" in text
    assert not (box.workspace / "x.pdf").exists()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("../o.pdf", "Error: Path '../o.pdf' is outside the allowed workspace"),
        ("http://example.org/o.pdf", "Error: Output path cannot be a URL, must be a local file path"),
        (".", "Error {doing}: [Errno 21] Is a directory: '.'"),
        ("missing/o.pdf", "Error {doing}: [Errno 2] No such file or directory: 'missing/o.pdf'"),
        ("a.pdf/o.pdf", "Error {doing}: [Errno 20] Not a directory: 'a.pdf/o.pdf'"),
    ],
)
def test_places_that_cannot_be_written(box: Box, path: str, said: str) -> None:
    text = ask(box, "extract_pdf_pages", source_path="a.pdf", page_numbers=[1], output_path=path)
    assert text.startswith(said.format(doing="extracting pages"))
    text = ask(box, "merge_pdfs", pdf_paths=["a.pdf"], output_path=path)
    assert text.startswith(said.format(doing="merging PDFs"))


# --- hostile files


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a PDF at all",
        b"\x00" * 5000,
        b"%PDF-1.7\n%%EOF",
        pdf(TEXTS)[:200],
        pdf(TEXTS)[300:],
        assemble({1: b"<< /Type /Catalog /Pages 1 0 R >>"}),
        assemble({1: b"<< /Type /Catalog /Pages 2 0 R >>", 2: b"2 0 R"}),
        b"%PDF-1.4\ntrailer << /Root 1 0 R /Prev 9 >>\nstartxref\n9\n%%EOF",
        page_tree(b"2 0 R", 1),
        page_tree(b"5 0 R", 1, o5=b"<< /Type /Pages /Count 1 /Kids [2 0 R 5 0 R] >>"),
        page_tree(b"3 0 R", 10**12),
        page_tree(b"3 0 R", -7),
        page_tree(b"(text) 7 << /Type /Page >>", 3),
        page_tree(b"3 0 R", 1, o3=b"<< /Type /Page /Parent 3 0 R /Contents 3 0 R /MediaBox [/a (b)] >>"),
        page_tree(b"[" * 50_000, 1),
        page_tree(b"3 0 R", 1, o3=b"<< /A " * 50_000),
        page_tree(b"3 0 R", 1, o3=b"<< /Type /Page /Contents 4 0 R >>", o4=stream(b"[" * 100_000 + b"(" * 100_000)),
    ],
    ids=range(18),
)
def test_a_broken_file_is_an_answer_never_a_crash(box: Box, data: bytes) -> None:
    put(box, "broken.pdf", data)
    quick = replace(box, limits=replace(box.limits, cpu_seconds=10))
    for tool, arguments in (
        ("read_pdf_pages", {"pdf_file_path": "broken.pdf", "end_page": 10**9}),
        ("merge_pdfs", {"pdf_paths": ["broken.pdf", "broken.pdf"], "output_path": "merged.pdf"}),
    ):
        result = quick.call("pdf-tools", tool, "Toolathlon", **arguments)
        text = result.content[0]["text"]
        assert len(text) < 2000
        if result.is_error:  # older versions of pypdf go round some loops for ever
            assert text == "Work on the PDF was stopped: it took more than 10 seconds of CPU time"
        else:
            assert text.startswith(("Error", "Warning: Reading more", "Successfully merged")), text
    assert [path.name for path in box.workspace.glob(".klavis*")] == []


def test_an_encrypted_file(box: Box) -> None:
    for name, password in (("locked.pdf", "secret"), ("open.pdf", "")):
        writer = PdfWriter(io.BytesIO(pdf(TEXTS)))
        writer.encrypt(password, "owner", algorithm="RC4-128")
        packed = io.BytesIO()
        writer.write(packed)
        put(box, name, packed.getvalue())
    assert ask(box, "read_pdf_pages", pdf_file_path="locked.pdf") == (
        "Error processing PDF: File has not been decrypted"
    )
    assert klavis(box, "read_pdf", file_path="locked.pdf") == {
        "error": "Failed to read PDF: File has not been decrypted"
    }
    assert TEXTS[0] in ask(box, "read_pdf_pages", pdf_file_path="open.pdf")
    assert klavis(box, "get_pdf_info", file_path="open.pdf")["is_encrypted"] is True


def test_bombs_end_at_the_limits(box: Box) -> None:
    small = replace(box, limits=replace(box.limits, memory=256 << 20, wall_seconds=4.0, cpu_seconds=3))
    font = b"/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >>"
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 10 10] %s /Contents 4 0 R >>" % font
    bombs = {
        "zeros": page_tree(b"3 0 R", 1, o3=page, o4=stream(b"\x00" * (200 << 20), packed=True)),
        "words": page_tree(b"3 0 R", 1, o3=page, o4=stream(b"BT /F1 1 Tf (word) Tj T* ET\n" * 1_000_000, packed=True)),
        "pages": page_tree(b"3 0 R " * 400_000, 400_000, o3=page, o4=stream(b"BT /F1 1 Tf (x) Tj ET")),
    }
    for name, data in bombs.items():
        put(small, f"{name}.pdf", data)
        result = small.call("pdf-tools", "read_pdf_pages", "Toolathlon", pdf_file_path=f"{name}.pdf", end_page=10**9)
        text = result.content[0]["text"]
        assert len(text) < 2 << 20
        assert "ended early" not in text
        if result.is_error:
            assert re.search(
                r"Work on the PDF (timed out after 4 seconds|was stopped: it took more than 3 seconds of CPU)", text
            ), text
        else:
            assert text.startswith(("Error processing PDF: ", "Warning: Reading more than 50 pages")), text[:500]
        assert TEXTS[0] in ask(box, "read_pdf_pages", pdf_file_path="a.pdf")


def test_answers_are_cut_where_they_would_be_large(box: Box) -> None:
    put(box, "long.pdf", pdf(["word " * 2000] * 100, info={"Title": "t" * 100_000}))
    said = ask(box, "read_pdf_pages", pdf_file_path="long.pdf", end_page=100)
    assert 400_000 < len(said) < 600_000
    assert re.search(r"\[\.\.\. truncated in page 5\d \.\.\.\]$", said)
    answer = klavis(box, "read_pdf", file_path="long.pdf")
    assert answer["truncated"].startswith("pages holds what fits into one answer: up to 5")
    assert len(answer["metadata"]["title"]) == 1000
    tight = replace(box, limits=replace(box.limits, output=20_000))
    assert len(ask(tight, "read_pdf_pages", pdf_file_path="long.pdf", end_page=100)) < 21_000
    said = ask(box, "search_pdf_content", pdf_file_path="long.pdf", pattern="w")
    assert "Total matches: 200000 (the first 1000 are kept)\nPage: 1/100\n" in said
    said = ask(box, "search_pdf_content", pdf_file_path="long.pdf", pattern="(?s).*")
    assert len(said) < 20_000


def test_a_pattern_that_backtracks_is_stopped_in_time(box: Box) -> None:
    put(box, "as.pdf", pdf(["a" * 60 + "!"]))
    quick = replace(box, limits=replace(box.limits, wall_seconds=12.0))
    for pattern in ("(a+)+$", "(a|a)*$"):
        said = ask(quick, "search_pdf_content", pdf_file_path="as.pdf", pattern=pattern)
        assert said == "Error searching PDF: the pattern took more than 3 seconds; use a simpler one"


def test_what_is_no_file_and_what_leads_out(every: Box) -> None:
    fifo, link, out = (every.workspace / name for name in ("fifo.pdf", "link.pdf", "out.pdf"))
    os.mkfifo(fifo, 0o666)
    link.symlink_to("/etc/passwd")
    out.symlink_to("../outside.pdf")
    try:
        assert "Not a regular file: 'fifo.pdf'" in ask(every, "get_pdf_info", pdf_file_path="fifo.pdf")
        said = f"Error: Path 'link.pdf' is outside the allowed workspace '{every.root}'"
        assert ask(every, "get_pdf_info", pdf_file_path="link.pdf") == said
        said = ask(every, "merge_pdfs", pdf_paths=["a.pdf"], output_path="out.pdf")
        assert said.startswith("Error: Path 'out.pdf' is outside the allowed workspace")
        assert not (every.workspace.parent / "outside.pdf").exists()
        assert "outside the allowed workspace" in ask(every, "get_pdf_info", pdf_file_path="a\0.pdf")
        assert ask(every, "get_pdf_info", pdf_file_path="'\n\ud800.pdf").startswith("Error")
    finally:
        for path in (fifo, link, out):
            path.unlink()


def test_files_of_the_workspace_are_never_imported(every: Box) -> None:
    names = ["json.py", "re.py", "logging.py", "sitecustomize.py", "pypdf/__init__.py"]
    for name in names:
        put(every, name, b"open('/data/imported', 'w'); raise SystemExit('imported')")
    assert "Total pages: 3" in ask(every, "get_pdf_info", pdf_file_path="a.pdf")
    assert not (every.workspace / "imported").exists()
    for name in names:
        (every.workspace / name).unlink()


def test_arguments_of_any_size_are_an_answer(box: Box) -> None:
    long = "x" * 500_000
    assert "File name too long" in ask(box, "get_pdf_info", pdf_file_path=long)
    assert "File name too long" in ask(box, "merge_pdfs", pdf_paths=["a.pdf"], output_path=long)
    said = ask(box, "extract_pdf_pages", source_path="a.pdf", page_numbers=[9] * 500_000, output_path="x.pdf")
    assert said == "Error: No valid pages to extract from PDF (total pages: 3)"
    said = ask(box, "read_pdf_pages", pdf_file_path="b.pdf", start_page=-(10**4000), end_page=10**4000)
    assert "Extracted page range: 1-1\n" in said


_BELOW_A_CLOSED_FOLDER = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.embedded.sandboxed import new_box
with new_box("landlock") as box:
    box.files.write_bytes("a.pdf", bytes.fromhex(sys.argv[2]))
    print(box.text("pdf-tools", "get_pdf_info", pdf_file_path="a.pdf"))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root keeps packages where its sandboxes' users cannot go")
def test_a_package_below_a_closed_folder_is_found() -> None:
    with new_box("landlock"):  # skips where there is none
        pass
    with tempfile.TemporaryDirectory() as name:  # which nobody else can go through
        shutil.copytree(Path(pypdf.__file__).parent, Path(name) / "pypdf")
        command = [sys.executable, "-c", _BELOW_A_CLOSED_FOLDER, name, pdf(TEXTS).hex()]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert "Total pages: 3" in done.stdout, done.stderr


def test_calls_at_once_do_not_meet(box: Box) -> None:
    known = tools("pdf-tools", "Toolathlon")

    async def all_at_once() -> list[Any]:
        calls = []
        for number in range(6):
            arguments = {"source_path": "a.pdf", "page_numbers": [1 + number % 3], "output_path": "same.pdf"}
            calls.append(known["extract_pdf_pages"].call(box.context("pdf-tools"), arguments))
        return await asyncio.gather(*calls)

    for result in box.runner.run(all_at_once()):
        assert result.content[0]["text"].startswith("Successfully extracted 1 pages")
    assert pages(box, "same.pdf") in [[text] for text in TEXTS]
    assert [path.name for path in box.workspace.glob(".klavis*")] == []
