"""word: our bridge against office-word-mcp-server spoken to directly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..playing import Table
from ..scenario import Folder, Scenario, call
from .powerpoint import PIXEL

if TYPE_CHECKING:
    from ..scenario import Call

DOC = "{root}/doc.docx"


def on(tool: str, /, **arguments: object) -> Call:
    return call(tool, **({"filename": DOC} | arguments))


WRITTEN = {
    "a document": on("create_document", title="Report", author="Ada"),
    "a heading": on("add_heading", text="Introduction", level=1),
    "a paragraph": on("add_paragraph", text="The first paragraph: Grüße 🌍."),
    "a second heading": on("add_heading", text="Results", level=2),
    "a second paragraph": on("add_paragraph", text="START of results"),
    "a third paragraph": on("add_paragraph", text="They are good, they are cheap."),
    "a fourth paragraph": on("add_paragraph", text="END of results"),
    "a table": on("add_table", rows=3, cols=3, data=[["a", "b", "c"], ["1", "2", "3"], ["4", "5", "6"]]),
}

TEXT = Scenario(
    "text",
    seed={"no.docx": "this is no document", "folder": Folder, "pixel.png": PIXEL},
    calls=WRITTEN
    | {
        "a document that is there": on("create_document"),
        "a document in a new folder": on("create_document", filename="{root}/new/x.docx"),
        "a document without a name": call("create_document"),
        "copy": call("copy_document", source_filename=DOC, destination_filename="{root}/folder/copy.docx"),
        "copy a missing one": call("copy_document", source_filename="{root}/absent.docx"),
        "copy to the source": call("copy_document", source_filename=DOC, destination_filename=DOC),
        "information": on("get_document_info"),
        "information on no document": on("get_document_info", filename="{root}/no.docx"),
        "information on a missing one": on("get_document_info", filename="{root}/absent.docx"),
        "text": on("get_document_text"),
        "text of no document": on("get_document_text", filename="{root}/no.docx"),
        "text of a missing one": on("get_document_text", filename="{root}/absent.docx"),
        "outline": on("get_document_outline"),
        "outline of a missing one": on("get_document_outline", filename="{root}/absent.docx"),
        "outline without a name": call("get_document_outline"),
        "xml": on("get_document_xml"),
        "xml of no document": on("get_document_xml", filename="{root}/no.docx"),
        "xml of a missing one": on("get_document_xml", filename="{root}/absent.docx"),
        "documents here": call("list_available_documents", directory="{root}/folder"),
        "documents in a missing folder": call("list_available_documents", directory="{root}/absent"),
        "documents of a file": call("list_available_documents", directory=DOC),
        "a styled paragraph": on(
            "add_paragraph", text="styled", font_name="Arial", font_size=14, bold=True, color="FF0000"
        ),
        "a paragraph of an unknown style": on("add_paragraph", text="x", style="No Such Style"),
        "a paragraph to a missing one": on("add_paragraph", filename="{root}/absent.docx", text="x"),
        "a heading with a border": on("add_heading", text="Bordered", level=3, border_bottom=True),
        "a heading too deep": on("add_heading", text="x", level=12),
        "a heading as text": on("add_heading", text="x", level="two"),
        "a picture": on("add_picture", image_path="{root}/pixel.png", width=1.5),
        "a missing picture": on("add_picture", image_path="{root}/absent.png"),
        "no picture": on("add_picture", image_path="{root}/no.docx"),
        "a page break": on("add_page_break"),
        "a page break in a missing one": on("add_page_break", filename="{root}/absent.docx"),
        "a page break again": on("add_page_break"),
        "a header near text": on(
            "insert_header_near_text", target_text="START", header_title="Before", position="before"
        ),
        "a header near nothing": on("insert_header_near_text", target_text="nowhere", header_title="X"),
        "a header by index": on("insert_header_near_text", target_paragraph_index=1, header_title="Second"),
        "a line near text": on("insert_line_or_paragraph_near_text", target_text="END", line_text="after the end"),
        "a line by index": on("insert_line_or_paragraph_near_text", target_paragraph_index=0, line_text="a line"),
        "a line near nothing": on("insert_line_or_paragraph_near_text", target_text="nowhere", line_text="x"),
        "a list near text": on("insert_numbered_list_near_text", target_text="They are", list_items=["one", "two"]),
        "bullets near text": on(
            "insert_numbered_list_near_text", target_text="END", list_items=["x"], bullet_type="bullet"
        ),
        "a list near nothing": on("insert_numbered_list_near_text", target_text="nowhere", list_items=["x"]),
        "replace": on("search_and_replace", find_text="they are", replace_text="and"),
        "replace nothing": on("search_and_replace", find_text="nowhere", replace_text="x"),
        "replace in a missing one": on(
            "search_and_replace", filename="{root}/absent.docx", find_text="x", replace_text="y"
        ),
        "paragraph": on("get_paragraph_text_from_document", paragraph_index=1),
        "paragraph beyond": on("get_paragraph_text_from_document", paragraph_index=999),
        "negative paragraph": on("get_paragraph_text_from_document", paragraph_index=-1),
        "find": on("find_text_in_document", text_to_find="results"),
        "find whole words in another case": on(
            "find_text_in_document", text_to_find="RESULTS", match_case=False, whole_word=True
        ),
        "find nothing": on("find_text_in_document", text_to_find="nowhere"),
        "replace below a header": on(
            "replace_paragraph_block_below_header", header_text="Introduction", new_paragraphs=["new one", "new two"]
        ),
        "replace below a missing header": on(
            "replace_paragraph_block_below_header", header_text="Nowhere", new_paragraphs=["x"]
        ),
        "replace below without paragraphs": on("replace_paragraph_block_below_header", header_text="Introduction"),
        "replace between anchors": on(
            "replace_block_between_manual_anchors",
            start_anchor_text="START of results",
            new_paragraphs=["between"],
            end_anchor_text="END of results",
        ),
        "replace between missing anchors": on(
            "replace_block_between_manual_anchors", start_anchor_text="nowhere", new_paragraphs=["x"]
        ),
        "replace between without paragraphs": on("replace_block_between_manual_anchors", start_anchor_text="START"),
        "delete a paragraph": on("delete_paragraph", paragraph_index=2),
        "delete a paragraph beyond": on("delete_paragraph", paragraph_index=999),
        "delete a negative paragraph": on("delete_paragraph", paragraph_index=-1),
        "text at the end": on("get_document_text"),
        "unknown tool": on("make_coffee"),
    },
)

TABLES_AND_LOOKS = Scenario(
    "tables and looks",
    calls=WRITTEN
    | {
        "a small table": on("add_table", rows=1, cols=2),
        "a table without rows": on("add_table", rows=0, cols=0),
        "a style": on("create_custom_style", style_name="Loud", bold=True, font_size=20, color="red"),
        "the same style": on("create_custom_style", style_name="Loud", italic=True),
        "a style upon an unknown one": on("create_custom_style", style_name="Odd", base_style="Nowhere"),
        "format text": on("format_text", paragraph_index=1, start_pos=0, end_pos=5, bold=True, color="blue"),
        "format beyond the text": on("format_text", paragraph_index=1, start_pos=0, end_pos=999, bold=True),
        "format beyond the paragraphs": on("format_text", paragraph_index=99, start_pos=0, end_pos=1),
        "format a table": on("format_table", table_index=0, has_header_row=True, border_style="double"),
        "format a missing table": on("format_table", table_index=9),
        "shade by rows": on("format_table", table_index=0, shading=[["FF0000"]]),
        "shade a cell": on("set_table_cell_shading", table_index=0, row_index=0, col_index=0, fill_color="00FF00"),
        "shade a missing cell": on(
            "set_table_cell_shading", table_index=0, row_index=9, col_index=0, fill_color="00FF00"
        ),
        "shade with a bad color": on(
            "set_table_cell_shading", table_index=0, row_index=0, col_index=0, fill_color="green!"
        ),
        "alternate": on("apply_table_alternating_rows", table_index=0, color1="FFFFFF", color2="EEEEEE"),
        "alternate a missing table": on("apply_table_alternating_rows", table_index=9),
        "alternate a negative table": on("apply_table_alternating_rows", table_index=-1),
        "highlight": on("highlight_table_header", table_index=0),
        "highlight in colors": on("highlight_table_header", table_index=0, header_color="000000", text_color="FFFFFF"),
        "highlight a missing table": on("highlight_table_header", table_index=9),
        "merge": on("merge_table_cells", table_index=0, start_row=0, start_col=0, end_row=1, end_col=1),
        "merge backwards": on("merge_table_cells", table_index=0, start_row=2, start_col=2, end_row=0, end_col=0),
        "merge beyond": on("merge_table_cells", table_index=0, start_row=0, start_col=0, end_row=9, end_col=9),
        "merge across": on("merge_table_cells_horizontal", table_index=0, row_index=2, start_col=0, end_col=1),
        "merge across one": on("merge_table_cells_horizontal", table_index=0, row_index=2, start_col=1, end_col=1),
        "merge across beyond": on("merge_table_cells_horizontal", table_index=0, row_index=9, start_col=0, end_col=1),
        "merge down": on("merge_table_cells_vertical", table_index=0, col_index=2, start_row=0, end_row=1),
        "merge down beyond": on("merge_table_cells_vertical", table_index=0, col_index=9, start_row=0, end_row=1),
        "merge down as text": on("merge_table_cells_vertical", table_index=0, col_index="x", start_row=0, end_row=1),
        "align a cell": on("set_table_cell_alignment", table_index=0, row_index=0, col_index=0, horizontal="center"),
        "align a cell oddly": on("set_table_cell_alignment", table_index=0, row_index=0, col_index=0, horizontal="up"),
        "align a missing cell": on("set_table_cell_alignment", table_index=0, row_index=9, col_index=0),
        "align all": on("set_table_alignment_all", table_index=0, horizontal="right", vertical="bottom"),
        "align all oddly": on("set_table_alignment_all", table_index=0, horizontal="up"),
        "align all of a missing table": on("set_table_alignment_all", table_index=9),
        "column width": on("set_table_column_width", table_index=0, col_index=0, width=2.5, width_type="cm"),
        "column width in odd units": on(
            "set_table_column_width", table_index=0, col_index=0, width=2, width_type="ell"
        ),
        "width of a missing column": on("set_table_column_width", table_index=0, col_index=9, width=2),
        "column widths": on("set_table_column_widths", table_index=0, widths=[1, 2, 3]),
        "too many column widths": on("set_table_column_widths", table_index=0, widths=[1, 2, 3, 4]),
        "no column widths": on("set_table_column_widths", table_index=0),
        "table width": on("set_table_width", table_index=0, width=400),
        "table width in percent": on("set_table_width", table_index=0, width=80, width_type="percent"),
        "width of a missing table": on("set_table_width", table_index=9, width=1),
        "fit": on("auto_fit_table_columns", table_index=0),
        "fit another": on("auto_fit_table_columns", table_index=1),
        "fit a missing table": on("auto_fit_table_columns", table_index=9),
        "cell text": on(
            "format_table_cell_text", table_index=0, row_index=2, col_index=2, text_content="ü", italic=True
        ),
        "cell looks": on(
            "format_table_cell_text", table_index=0, row_index=2, col_index=2, color="FF0000", font_size=8
        ),
        "text of a missing cell": on("format_table_cell_text", table_index=0, row_index=9, col_index=9, bold=True),
        "padding": on("set_table_cell_padding", table_index=0, row_index=0, col_index=0, top=5, left=5),
        "padding in percent": on(
            "set_table_cell_padding", table_index=0, row_index=0, col_index=0, top=5, unit="percent"
        ),
        "padding of a missing cell": on("set_table_cell_padding", table_index=0, row_index=9, col_index=0, top=5),
        "text": on("get_document_text"),
    },
)

NOTES = Scenario(
    "notes, comments, protection",
    seed={"no.docx": "this is no document"},
    calls=WRITTEN
    | {
        "footnote": on("add_footnote_to_document", paragraph_index=1, footnote_text="a note ü"),
        "footnote beyond": on("add_footnote_to_document", paragraph_index=99, footnote_text="x"),
        "footnote in a missing one": on(
            "add_footnote_to_document", filename="{root}/absent.docx", paragraph_index=0, footnote_text="x"
        ),
        "footnote after text": on("add_footnote_after_text", search_text="good", footnote_text="really"),
        "footnote after nothing": on("add_footnote_after_text", search_text="nowhere", footnote_text="x"),
        "footnote after text in another file": on(
            "add_footnote_after_text", search_text="good", footnote_text="y", output_filename="{root}/noted.docx"
        ),
        "footnote before text": on("add_footnote_before_text", search_text="cheap", footnote_text="more or less"),
        "footnote before nothing": on("add_footnote_before_text", search_text="nowhere", footnote_text="x"),
        "footnote before no text": on("add_footnote_before_text", search_text="", footnote_text="x"),
        "enhanced footnote": on("add_footnote_enhanced", paragraph_index=2, footnote_text="enhanced"),
        "enhanced footnote beyond": on("add_footnote_enhanced", paragraph_index=99, footnote_text="x"),
        "enhanced footnote without text": on("add_footnote_enhanced", paragraph_index=2),
        "robust footnote": on("add_footnote_robust", paragraph_index=3, footnote_text="robust"),
        "robust footnote by text": on("add_footnote_robust", search_text="START", footnote_text="at the start"),
        "robust footnote nowhere": on("add_footnote_robust", footnote_text="x"),
        "endnote": on("add_endnote_to_document", paragraph_index=1, endnote_text="at the end"),
        "endnote beyond": on("add_endnote_to_document", paragraph_index=99, endnote_text="x"),
        "endnote without text": on("add_endnote_to_document", paragraph_index=1),
        "footnote style": on("customize_footnote_style", numbering_format="a, b, c", font_size=8),
        "footnote style from 3": on("customize_footnote_style", start_number=3),
        "footnote style of a missing one": on("customize_footnote_style", filename="{root}/absent.docx"),
        "validate": on("validate_document_footnotes"),
        "validate a missing one": on("validate_document_footnotes", filename="{root}/absent.docx"),
        "validate no document": on("validate_document_footnotes", filename="{root}/no.docx"),
        "delete a footnote": on("delete_footnote_from_document", footnote_id=1),
        "delete a footnote by text": on("delete_footnote_from_document", search_text="cheap"),
        "delete a missing footnote": on("delete_footnote_from_document", footnote_id=99),
        "delete robustly": on("delete_footnote_robust", footnote_id=2),
        "delete robustly a missing one": on("delete_footnote_robust", footnote_id=99),
        "delete robustly nothing": on("delete_footnote_robust"),
        "comments": on("get_all_comments"),
        "comments of a missing one": on("get_all_comments", filename="{root}/absent.docx"),
        "comments of no document": on("get_all_comments", filename="{root}/no.docx"),
        "comments by author": on("get_comments_by_author", author="Ada"),
        "comments by nobody": on("get_comments_by_author", author=""),
        "comments by author of a missing one": on(
            "get_comments_by_author", filename="{root}/absent.docx", author="Ada"
        ),
        "comments of a paragraph": on("get_comments_for_paragraph", paragraph_index=1),
        "comments of a paragraph beyond": on("get_comments_for_paragraph", paragraph_index=99),
        "comments of a negative paragraph": on("get_comments_for_paragraph", paragraph_index=-1),
        "to PDF": on("convert_to_pdf"),
        "a missing one to PDF": on("convert_to_pdf", filename="{root}/absent.docx"),
        "to PDF without a name": call("convert_to_pdf"),
        "protect": on("protect_document", password="secret"),
        "protect a missing one": on("protect_document", filename="{root}/absent.docx", password="secret"),
        "text while protected": on("get_document_text"),
        "unprotect with another password": on("unprotect_document", password="wrong"),
        "unprotect": on("unprotect_document", password="secret"),
        "unprotect again": on("unprotect_document", password="secret"),
        "text afterwards": on("get_document_text"),
    },
)

TABLE = Table(
    name="word", server="word", benchmark="MCP_Atlas", upstream="word", scenarios=(TEXT, TABLES_AND_LOOKS, NOTES)
)
