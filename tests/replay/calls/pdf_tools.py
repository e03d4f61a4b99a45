"""pdf-tools: against pdf-tools-mcp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..playing import Table
from ..scenario import Folder, Link, Scenario, call

if TYPE_CHECKING:
    from ..scenario import Call


def pdf(*pages: str, title: str = "") -> bytes:
    """A PDF with one page for each text; a line of the text is a line on the page."""
    bodies = ["<< /Type /Catalog /Pages 2 0 R >>", ""]
    bodies.append("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>")
    kids = []
    for text in pages:
        lines = "".join(f"({line}) Tj T* " for line in text.replace("(", r"\(").replace(")", r"\)").split("\n"))
        stream = f"BT /F1 12 Tf 14 TL 72 720 Td {lines}ET"
        bodies.append(f"<< /Length {len(stream.encode('latin-1'))} >>\nstream\n{stream}\nendstream")
        kids.append(f"{len(bodies) + 1} 0 R")
        bodies.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {len(bodies)} 0 R"
            " /Resources << /Font << /F1 3 0 R >> >> >>"
        )
    bodies[1] = f"<< /Type /Pages /Count {len(pages)} /Kids [{' '.join(kids)}] >>"
    if title:
        bodies.append(f"<< /Title ({title}) /Author (Ada) /CreationDate (D:20240301120000Z) >>")
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(bodies, start=1):
        places.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode("latin-1")
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    info = f" /Info {len(bodies)} 0 R" if title else ""
    count = len(bodies) + 1
    end = f"xref\n0 {count}\n0000000000 65535 f \n{table}trailer\n<< /Size {count} /Root 1 0 R{info} >>"
    return out + f"{end}\nstartxref\n{len(out)}\n%%EOF\n".encode("latin-1")


BOOK = pdf(
    *(f"Page {number}\nThe cat sat on mat {number}.\nTotal: {number * 7} EUR" for number in range(1, 13)), title="Book"
)
FILES = {
    "book.pdf": BOOK,
    "one.pdf": pdf("A single page (with brackets)"),
    "blank.pdf": pdf("", ""),
    "umlaut.pdf": pdf("Sch\u00f6ne Gr\u00fc\u00dfe"),
    "long.pdf": pdf("\n".join(f"line {number} of a long page" for number in range(2_000))),
    "grüße 1.pdf": pdf("in a file with spaces"),
    "no.pdf": "this is no PDF",
    "empty.pdf": "",
    "cut.pdf": BOOK[: len(BOOK) // 2],
    "text.txt": "text",
    "folder/inner.pdf": pdf("inner"),
    "link.pdf": Link("one.pdf"),
    "out.pdf": Link("/etc/hostname", late=True),
    "made": Folder,
}


def read(path: str, **more: object) -> Call:
    return call("read_pdf_pages", pdf_file_path=path, **more)


def info(path: str) -> Call:
    return call("get_pdf_info", pdf_file_path=path)


def search(pattern: str, path: str = "{root}/book.pdf", **more: object) -> Call:
    return call("search_pdf_content", pdf_file_path=path, pattern=pattern, **more)


READING = Scenario(
    "reading",
    seed=FILES,
    calls={
        "first page": read("{root}/book.pdf"),
        "a range": read("{root}/book.pdf", start_page=2, end_page=4),
        "the last page": read("{root}/book.pdf", start_page=12, end_page=12),
        "beyond the end": read("{root}/book.pdf", start_page=11, end_page=99),
        "start beyond the end": read("{root}/book.pdf", start_page=50, end_page=60),
        "backwards": read("{root}/book.pdf", start_page=4, end_page=2),
        "page 0": read("{root}/book.pdf", start_page=0, end_page=1),
        "negative": read("{root}/book.pdf", start_page=-1, end_page=2),
        "only a start": read("{root}/book.pdf", start_page=3),
        "relative": read("book.pdf"),
        "unicode": read("{root}/umlaut.pdf"),
        "unicode name": read("{root}/grüße 1.pdf"),
        "blank": read("{root}/blank.pdf", end_page=2),
        "long": read("{root}/long.pdf"),
        "through a link": read("{root}/link.pdf"),
        "no PDF": read("{root}/no.pdf"),
        "empty file": read("{root}/empty.pdf"),
        "cut off": read("{root}/cut.pdf"),
        "another extension": read("{root}/text.txt"),
        "a folder": read("{root}/folder"),
        "missing": read("{root}/absent.pdf"),
        "outside": read("/etc/hostname"),
        "a link that leads out": read("{root}/out.pdf"),
        "pages as text": read("{root}/book.pdf", start_page="2", end_page="3"),
        "pages of a wrong type": read("{root}/book.pdf", start_page="two"),
        "no path": call("read_pdf_pages"),
        "information": info("{root}/book.pdf"),
        "information on one page": info("{root}/one.pdf"),
        "information on blank pages": info("{root}/blank.pdf"),
        "information by a relative path": info("folder/inner.pdf"),
        "information on a unicode name": info("{root}/grüße 1.pdf"),
        "information on no PDF": info("{root}/no.pdf"),
        "information on an empty file": info("{root}/empty.pdf"),
        "information on what is missing": info("{root}/absent.pdf"),
        "information outside": info("/etc/hostname"),
        "information without a path": call("get_pdf_info"),
        "unknown tool": call("pdf_to_word"),
    },
)

MAKING = Scenario(
    "making",
    seed=FILES,
    calls={
        "merge two": call(
            "merge_pdfs", pdf_paths=["{root}/one.pdf", "{root}/folder/inner.pdf"], output_path="{root}/two.pdf"
        ),
        "merge the same": call("merge_pdfs", pdf_paths=["{root}/one.pdf"] * 3, output_path="{root}/three.pdf"),
        "merge one": call("merge_pdfs", pdf_paths=["{root}/book.pdf"], output_path="{root}/made/book.pdf"),
        "merge by relative paths": call("merge_pdfs", pdf_paths=["one.pdf", "umlaut.pdf"], output_path="made/rel.pdf"),
        "merge onto one that is there": call("merge_pdfs", pdf_paths=["{root}/one.pdf"], output_path="{root}/two.pdf"),
        "merge into a new folder": call("merge_pdfs", pdf_paths=["{root}/one.pdf"], output_path="{root}/new/x.pdf"),
        "merge a missing one": call(
            "merge_pdfs", pdf_paths=["{root}/one.pdf", "{root}/absent.pdf"], output_path="{root}/x.pdf"
        ),
        "merge what is no PDF": call(
            "merge_pdfs", pdf_paths=["{root}/one.pdf", "{root}/no.pdf"], output_path="{root}/x.pdf"
        ),
        "merge nothing": call("merge_pdfs", pdf_paths=[], output_path="{root}/x.pdf"),
        "merge to outside": call("merge_pdfs", pdf_paths=["{root}/one.pdf"], output_path="/tmp/replay.pdf"),
        "merge from outside": call("merge_pdfs", pdf_paths=["/etc/hostname"], output_path="{root}/x.pdf"),
        "merge text": call("merge_pdfs", pdf_paths="{root}/one.pdf", output_path="{root}/x.pdf"),
        "merge without an output": call("merge_pdfs", pdf_paths=["{root}/one.pdf"]),
        "extract": call(
            "extract_pdf_pages", source_path="{root}/book.pdf", page_numbers=[2, 4], output_path="{root}/e1.pdf"
        ),
        "extract in another order": call(
            "extract_pdf_pages", source_path="{root}/book.pdf", page_numbers=[3, 1], output_path="{root}/e2.pdf"
        ),
        "extract the same twice": call(
            "extract_pdf_pages", source_path="{root}/book.pdf", page_numbers=[1, 1], output_path="{root}/e3.pdf"
        ),
        "extract the last": call(
            "extract_pdf_pages", source_path="{root}/book.pdf", page_numbers=[12], output_path="{root}/e4.pdf"
        ),
        "extract beyond the end": call(
            "extract_pdf_pages", source_path="{root}/book.pdf", page_numbers=[1, 13], output_path="{root}/e5.pdf"
        ),
        "extract page 0": call(
            "extract_pdf_pages", source_path="{root}/book.pdf", page_numbers=[0], output_path="{root}/e6.pdf"
        ),
        "extract from the end": call(
            "extract_pdf_pages", source_path="{root}/book.pdf", page_numbers=[-1], output_path="{root}/e7.pdf"
        ),
        "extract nothing": call(
            "extract_pdf_pages", source_path="{root}/book.pdf", page_numbers=[], output_path="{root}/e8.pdf"
        ),
        "extract by relative paths": call(
            "extract_pdf_pages", source_path="book.pdf", page_numbers=[1], output_path="made/e9.pdf"
        ),
        "extract onto the source": call(
            "extract_pdf_pages", source_path="{root}/three.pdf", page_numbers=[1], output_path="{root}/three.pdf"
        ),
        "extract of what is missing": call(
            "extract_pdf_pages", source_path="{root}/absent.pdf", page_numbers=[1], output_path="{root}/x.pdf"
        ),
        "extract of no PDF": call(
            "extract_pdf_pages", source_path="{root}/no.pdf", page_numbers=[1], output_path="{root}/x.pdf"
        ),
        "extract to outside": call(
            "extract_pdf_pages", source_path="{root}/book.pdf", page_numbers=[1], output_path="/tmp/replay.pdf"
        ),
        "extract words": call(
            "extract_pdf_pages", source_path="{root}/book.pdf", page_numbers=["one"], output_path="{root}/x.pdf"
        ),
        "extract without an output": call("extract_pdf_pages", source_path="{root}/book.pdf", page_numbers=[1]),
    },
)

SEARCHING = Scenario(
    "searching",
    seed=FILES,
    calls={
        "a word": search("cat", page_size=5),
        "a pattern": search(r"Total: \d+ EUR", page_size=3),
        "in another case": search("CAT"),
        "case does not count": search("(?i)CAT", page_size=2),
        "one hit": search("mat 12"),
        "nothing": search("zebra"),
        "an empty pattern": search("", "{root}/one.pdf", page_size=2),
        "a bad pattern": search("(unclosed"),
        "brackets": search(r"\(with", "{root}/one.pdf"),
        "unicode": search("Grüße", "{root}/umlaut.pdf"),
        "over lines": search("mat 1.\nTotal"),
        "page size 0": search("cat", page_size=0),
        "negative page size": search("cat", page_size=-1),
        "large page size": search("cat", page_size=1000),
        "by a relative path": search("inner", "folder/inner.pdf"),
        "in what is missing": search("cat", "{root}/absent.pdf"),
        "in no PDF": search("cat", "{root}/no.pdf"),
        "outside": search("cat", "/etc/hostname"),
        "no pattern": call("search_pdf_content", pdf_file_path="{root}/book.pdf"),
        "information": call("search_pdf_info", search_id="{a word.Search ID}"),
        "next": call("search_pdf_next_page", search_id="{a word.Search ID}"),
        "next again": call("search_pdf_next_page", search_id="{a word.Search ID}"),
        "next at the end": call("search_pdf_next_page", search_id="{a word.Search ID}"),
        "previous": call("search_pdf_prev_page", search_id="{a word.Search ID}"),
        "previous again": call("search_pdf_prev_page", search_id="{a word.Search ID}"),
        "previous at the start": call("search_pdf_prev_page", search_id="{a word.Search ID}"),
        "go to a page": call("search_pdf_go_page", search_id="{a word.Search ID}", page_number=3),
        "information after that": call("search_pdf_info", search_id="{a word.Search ID}"),
        "go to the first page": call("search_pdf_go_page", search_id="{a word.Search ID}", page_number=1),
        "go to page 0": call("search_pdf_go_page", search_id="{a word.Search ID}", page_number=0),
        "go beyond the end": call("search_pdf_go_page", search_id="{a word.Search ID}", page_number=99),
        "go to a word": call("search_pdf_go_page", search_id="{a word.Search ID}", page_number="two"),
        "go without a number": call("search_pdf_go_page", search_id="{a word.Search ID}"),
        "another search is apart": call("search_pdf_info", search_id="{a pattern.Search ID}"),
        "information on nothing found": call("search_pdf_info", search_id="{nothing.Search ID}"),
        "next of an unknown search": call("search_pdf_next_page", search_id="nowhere"),
        "previous of an unknown search": call("search_pdf_prev_page", search_id="nowhere"),
        "go in an unknown search": call("search_pdf_go_page", search_id="nowhere", page_number=1),
        "information on an unknown search": call("search_pdf_info", search_id="nowhere"),
        "next without an id": call("search_pdf_next_page"),
        "previous without an id": call("search_pdf_prev_page"),
        "information without an id": call("search_pdf_info"),
    },
)

TABLE = Table(
    name="pdf-tools",
    server="pdf-tools",
    benchmark="Toolathlon",
    upstream="pdf-tools",
    scenarios=(READING, MAKING, SEARCHING),
)
