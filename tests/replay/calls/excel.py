"""excel: our bridge against excel-mcp-server spoken to directly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..playing import Table
from ..scenario import Folder, Scenario, call

if TYPE_CHECKING:
    from ..scenario import Call

BOOK = "{root}/book.xlsx"
ROWS = [
    ["Region", "Product", "Units"],
    ["North", "Tea", 5],
    ["South", "Tea", 7],
    ["North", "Coffee", 11],
    ["Süd 🌍", "Tea", 2.5],
]


def on(tool: str, /, **arguments: object) -> Call:
    """A call on the sheet "Data" of the book."""
    return call(tool, **({"filepath": BOOK, "sheet_name": "Data"} | arguments))


def at(tool: str, start: str, end: str, /, **arguments: object) -> Call:
    return on(tool, start_cell=start, end_cell=end, **arguments)


FILLED = {
    "a book": call("create_workbook", filepath=BOOK),
    "a sheet for data": call("create_worksheet", filepath=BOOK, sheet_name="Data"),
    "rows": on("write_data_to_excel", data=ROWS),
}

BOOKS = Scenario(
    "books and sheets",
    seed={"no.xlsx": "this is no workbook", "folder": Folder},
    calls=FILLED
    | {
        "a book that is there": call("create_workbook", filepath=BOOK),
        "a book in a folder": call("create_workbook", filepath="{root}/folder/grüße.xlsx"),
        "a book in a new folder": call("create_workbook", filepath="{root}/new/x.xlsx"),
        "a book by a relative path": call("create_workbook", filepath="x.xlsx"),
        "a book without a name": call("create_workbook"),
        "a sheet that is there": call("create_worksheet", filepath=BOOK, sheet_name="Data"),
        "a sheet with a bad name": call("create_worksheet", filepath=BOOK, sheet_name="a/b:c"),
        "a sheet of a missing book": call("create_worksheet", filepath="{root}/absent.xlsx", sheet_name="S"),
        "metadata": call("get_workbook_metadata", filepath=BOOK),
        "metadata with ranges": call("get_workbook_metadata", filepath=BOOK, include_ranges=True),
        "metadata of no workbook": call("get_workbook_metadata", filepath="{root}/no.xlsx"),
        "metadata of a missing book": call("get_workbook_metadata", filepath="{root}/absent.xlsx"),
        "copy a sheet": call("copy_worksheet", filepath=BOOK, source_sheet="Data", target_sheet="Copy"),
        "copy onto one that is there": call("copy_worksheet", filepath=BOOK, source_sheet="Data", target_sheet="Copy"),
        "copy a missing sheet": call("copy_worksheet", filepath=BOOK, source_sheet="No", target_sheet="X"),
        "rename": call("rename_worksheet", filepath=BOOK, old_name="Copy", new_name="Zweite ü"),
        "rename to one that is there": call("rename_worksheet", filepath=BOOK, old_name="Zweite ü", new_name="Data"),
        "rename a missing sheet": call("rename_worksheet", filepath=BOOK, old_name="No", new_name="X"),
        "delete": call("delete_worksheet", filepath=BOOK, sheet_name="Zweite ü"),
        "delete a missing sheet": call("delete_worksheet", filepath=BOOK, sheet_name="No"),
        "delete without a sheet": call("delete_worksheet", filepath=BOOK),
        "unknown tool": call("create_macro", filepath=BOOK),
    },
)

CELLS = Scenario(
    "cells",
    calls=FILLED
    | {
        "read": on("read_data_from_excel"),
        "read a range": at("read_data_from_excel", "A2", "B3"),
        "read a preview": on("read_data_from_excel", preview_only=True),
        "read beyond": at("read_data_from_excel", "X90", "Z99"),
        "read a bad cell": on("read_data_from_excel", start_cell="1A"),
        "read a missing sheet": on("read_data_from_excel", sheet_name="No"),
        "read a missing book": on("read_data_from_excel", filepath="{root}/absent.xlsx"),
        "write further down": on("write_data_to_excel", data=[["x", None, True]], start_cell="E5"),
        "write nothing": on("write_data_to_excel", data=[]),
        "write text": on("write_data_to_excel", data="x"),
        "write to a new sheet": on("write_data_to_excel", sheet_name="New", data=[[1]]),
        "write without data": on("write_data_to_excel"),
        "formula": on("apply_formula", cell="D2", formula="=SUM(C2:C5)"),
        "formula without the sign": on("apply_formula", cell="D3", formula="C2*2"),
        "a bad formula": on("apply_formula", cell="D4", formula="=SUM(C2"),
        "an unsafe formula": on("apply_formula", cell="D4", formula='=INDIRECT("A1")'),
        "validate a formula": on("validate_formula_syntax", cell="D2", formula="=SUM(C2:C5)"),
        "validate another": on("validate_formula_syntax", cell="D3", formula="=A1+1"),
        "validate a bad one": on("validate_formula_syntax", cell="D2", formula="=SUM((C2"),
        "validate a range": at("validate_excel_range", "A1", "C5"),
        "validate a cell": on("validate_excel_range", start_cell="A1"),
        "validate a bad range": at("validate_excel_range", "A0", "ZZZZ1"),
        "validation rules": on("get_data_validation_info"),
        "validation rules of a missing sheet": on("get_data_validation_info", sheet_name="No"),
        "validation rules without a sheet": call("get_data_validation_info", filepath=BOOK),
        "insert rows": on("insert_rows", start_row=2, count=2),
        "insert a row": on("insert_rows", start_row=1),
        "insert rows at 0": on("insert_rows", start_row=0),
        "insert columns": on("insert_columns", start_col=2),
        "insert several columns": on("insert_columns", start_col=1, count=2),
        "insert a column as text": on("insert_columns", start_col="B"),
        "delete rows": on("delete_sheet_rows", start_row=1, count=2),
        "delete a row": on("delete_sheet_rows", start_row=1),
        "delete no rows": on("delete_sheet_rows", start_row=1, count=0),
        "delete columns": on("delete_sheet_columns", start_col=1, count=2),
        "delete a column": on("delete_sheet_columns", start_col=2),
        "delete a negative column": on("delete_sheet_columns", start_col=-1),
        "copy a range": on("copy_range", source_start="A1", source_end="B2", target_start="H1"),
        "copy to another sheet": on(
            "copy_range", source_start="A1", source_end="A2", target_start="A1", target_sheet="Sheet1"
        ),
        "copy to a missing sheet": on(
            "copy_range", source_start="A1", source_end="A2", target_start="A1", target_sheet="No"
        ),
        "delete a range": at("delete_range", "H1", "I2"),
        "delete a range to the left": at("delete_range", "A1", "A2", shift_direction="left"),
        "delete a range sideways": at("delete_range", "A1", "A2", shift_direction="sideways"),
        "read at the end": on("read_data_from_excel"),
    },
)

LOOKS = Scenario(
    "looks",
    calls=FILLED
    | {
        "format": at("format_range", "A1", "C1", bold=True, bg_color="FFFF00", font_size=14, border_style="thin"),
        "number format": at("format_range", "C2", "C5", number_format="0.00", alignment="right"),
        "conditional format": at(
            "format_range",
            "C2",
            "C5",
            conditional_format={
                "type": "color_scale",
                "params": {"start_type": "min", "start_color": "FFFFFF", "end_type": "max", "end_color": "FF0000"},
            },
        ),
        "format a bad color": at("format_range", "A1", "A1", bg_color="no color"),
        "format a bad cell": on("format_range", start_cell="nowhere"),
        "merge": at("merge_cells", "E1", "F2"),
        "merge what overlaps": at("merge_cells", "F2", "G3"),
        "merge one cell": at("merge_cells", "A1", "A1"),
        "merged": on("get_merged_cells"),
        "merged of a missing sheet": on("get_merged_cells", sheet_name="No"),
        "unmerge": at("unmerge_cells", "E1", "F2"),
        "unmerge again": at("unmerge_cells", "E1", "F2"),
        "unmerge a bad range": at("unmerge_cells", "x", "y"),
        "merged no more": on("get_merged_cells"),
        "a table": on("create_table", data_range="A1:C5", table_name="Sales"),
        "a table of the same name": on("create_table", data_range="A1:C5", table_name="Sales"),
        "a table of a bad range": on("create_table", data_range="A1-C5"),
        "a chart": on("create_chart", data_range="A1:C5", chart_type="bar", target_cell="H2", title="Units"),
        "a line": on("create_chart", data_range="A1:C5", chart_type="line", target_cell="H20", x_axis="x", y_axis="y"),
        "a chart of an unknown kind": on("create_chart", data_range="A1:C5", chart_type="cake", target_cell="H2"),
        "a pivot table": on("create_pivot_table", data_range="A1:C5", rows=["Region"], values=["Units"]),
        "a pivot table by another sum": on(
            "create_pivot_table", data_range="A1:C5", rows=["Product"], values=["Units"], agg_func="average"
        ),
        "a pivot table of an unknown field": on(
            "create_pivot_table", data_range="A1:C5", rows=["No"], values=["Units"]
        ),
        "metadata": call("get_workbook_metadata", filepath=BOOK, include_ranges=True),
    },
)

TABLE = Table(name="excel", server="excel", benchmark="MCP_Atlas", upstream="excel", scenarios=(BOOKS, CELLS, LOOKS))
