"""powerpoint: our bridge against office-powerpoint-mcp-server spoken to directly."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from ..playing import Table
from ..scenario import Folder, Scenario, call

if TYPE_CHECKING:
    from ..scenario import Call

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
DECK = "{root}/deck.pptx"


def on(tool: str, /, **arguments: object) -> Call:
    """A call on the presentation "deck"."""
    return call(tool, **({"presentation_id": "deck"} | arguments))


def at(tool: str, slide: object = 0, /, **arguments: object) -> Call:
    return on(tool, slide_index=slide, **arguments)


BOX = {"left": 1, "top": 1, "width": 3, "height": 2}
STARTED = {
    "a presentation": call("create_presentation", id="deck"),
    "a title slide": on("add_slide", layout_index=0, title="Report ü 🌍"),
    "a slide for content": on("add_slide", layout_index=1, title="Content"),
}
SAVED = {"save it": on("save_presentation", file_path=DECK)}

FILES = Scenario(
    "presentations",
    seed={"no.pptx": "this is no presentation", "folder": Folder},
    calls=STARTED
    | SAVED
    | {
        "another presentation": call("create_presentation", id="other"),
        "the same id again": call("create_presentation", id="other"),
        "a presentation without an id": call("create_presentation"),
        "list": call("list_presentations"),
        "switch": call("switch_presentation", presentation_id="deck"),
        "switch to an unknown one": call("switch_presentation", presentation_id="nowhere"),
        "switch to nothing": call("switch_presentation"),
        "information": on("get_presentation_info"),
        "information on the current one": call("get_presentation_info"),
        "information on an unknown one": call("get_presentation_info", presentation_id="nowhere"),
        "properties": on("set_core_properties", title="Title", author="Ada", keywords="a, b", comments="ü"),
        "one property": on("set_core_properties", subject="Subject"),
        "properties of an unknown one": call("set_core_properties", title="x", presentation_id="nowhere"),
        "save in a folder": on("save_presentation", file_path="{root}/folder/grüße.pptx"),
        "save in a missing folder": on("save_presentation", file_path="{root}/absent/x.pptx"),
        "save an unknown one": call("save_presentation", file_path=DECK, presentation_id="nowhere"),
        "open": call("open_presentation", file_path=DECK, id="opened"),
        "open a missing one": call("open_presentation", file_path="{root}/absent.pptx"),
        "open no presentation": call("open_presentation", file_path="{root}/no.pptx"),
        "text of the opened": call("extract_presentation_text", presentation_id="opened"),
        "from a template": call("create_presentation_from_template", template_path=DECK, id="from"),
        "from a missing template": call("create_presentation_from_template", template_path="{root}/absent.pptx"),
        "from no template": call("create_presentation_from_template", template_path="{root}/no.pptx"),
        "a template's information": call("get_template_file_info", template_path=DECK),
        "a missing template's information": call("get_template_file_info", template_path="{root}/absent.pptx"),
        "no template's information": call("get_template_file_info", template_path="{root}/no.pptx"),
        "server": call("get_server_info"),
        "server with an argument": call("get_server_info", verbose=True),
        "server again": call("get_server_info"),
        "list with an argument": call("list_presentations", all=True),
        "list at the end": call("list_presentations"),
        "unknown tool": call("make_coffee"),
    },
)

SLIDES = Scenario(
    "slides",
    seed={"pixel.png": PIXEL, "no.png": "this is no picture"},
    calls=STARTED
    | {
        "a slide with a background": on(
            "add_slide", layout_index=6, background_type="solid", background_colors=[[255, 0, 0]]
        ),
        "a slide of an unknown layout": on("add_slide", layout_index=99),
        "slide": at("get_slide_info"),
        "slide beyond": at("get_slide_info", 99),
        "slide as text": at("get_slide_info", "first"),
        "fill a placeholder": at("populate_placeholder", 1, placeholder_idx=1, text="filled ü"),
        "fill a missing placeholder": at("populate_placeholder", 1, placeholder_idx=99, text="x"),
        "fill on a missing slide": at("populate_placeholder", 99, placeholder_idx=0, text="x"),
        "bullets": at("add_bullet_points", 1, placeholder_idx=1, bullet_points=["one", "two ü"]),
        "no bullets": at("add_bullet_points", 1, placeholder_idx=1, bullet_points=[]),
        "bullets in a missing placeholder": at("add_bullet_points", 1, placeholder_idx=99, bullet_points=["x"]),
        "text": at("manage_text", operation="add", text="a box", font_size=18, bold=True, color=[255, 0, 0], **BOX),
        "format the text": at("manage_text", operation="format", shape_index=2, italic=True),
        "text in an unknown way": at("manage_text", operation="sing", text="x"),
        "text runs": at("manage_text", operation="format_runs", shape_index=2, text_runs=[{"text": "a", "bold": True}]),
        "a picture": at("manage_image", operation="add", image_source="{root}/pixel.png", **BOX),
        "a missing picture": at("manage_image", operation="add", image_source="{root}/absent.png"),
        "no picture": at("manage_image", operation="add", image_source="{root}/no.png"),
        "a picture in an unknown way": at("manage_image", operation="sing", image_source="{root}/pixel.png"),
        "a table": at("add_table", 1, rows=2, cols=2, data=[["a", "b"], ["1", "ü"]], **BOX),
        "a table without rows": at("add_table", 1, rows=0, cols=0, **BOX),
        "a table on a missing slide": at("add_table", 99, rows=1, cols=1, **BOX),
        "format a cell": at("format_table_cell", 1, shape_index=2, row=0, col=0, bold=True, bg_color=[0, 255, 0]),
        "format a missing cell": at("format_table_cell", 1, shape_index=2, row=9, col=9, bold=True),
        "format what is no table": at("format_table_cell", 1, shape_index=0, row=0, col=0, bold=True),
        "a shape": at("add_shape", shape_type="rectangle", fill_color=[1, 2, 3], text="in a shape", **BOX),
        "an unknown shape": at("add_shape", shape_type="cake", **BOX),
        "a shape on a missing slide": at("add_shape", 99, shape_type="oval", **BOX),
        "a chart": at(
            "add_chart",
            2,
            chart_type="column",
            categories=["a", "b"],
            series_names=["s"],
            series_values=[[1, 2]],
            **BOX,
        ),
        "an unknown chart": at(
            "add_chart", 2, chart_type="cake", categories=["a"], series_names=["s"], series_values=[[1]], **BOX
        ),
        "a chart of too few values": at(
            "add_chart", 2, chart_type="pie", categories=["a", "b"], series_names=["s", "t"], series_values=[[1]], **BOX
        ),
        "change the chart": at(
            "update_chart_data", 2, shape_index=0, categories=["x"], series_data=[{"name": "n", "values": [3]}]
        ),
        "change what is no chart": at(
            "update_chart_data", 0, shape_index=0, categories=["x"], series_data=[{"name": "n", "values": [3]}]
        ),
        "change a missing chart": at("update_chart_data", 2, shape_index=99, categories=["x"], series_data=[]),
        "a connector": at("add_connector", connector_type="straight", start_x=1, start_y=1, end_x=2, end_y=2),
        "an unknown connector": at("add_connector", connector_type="rope", start_x=1, start_y=1, end_x=2, end_y=2),
        "a connector as text": at("add_connector", connector_type="straight", start_x="a", start_y=1, end_x=2, end_y=2),
        "effects": at("apply_picture_effects", shape_index=3, effects={"shadow": {"blur_radius": 4}}),
        "effects on nothing": at("apply_picture_effects", shape_index=99, effects={}),
        "unknown effects": at("apply_picture_effects", shape_index=3, effects={"sing": {}}),
        "a link": at("manage_hyperlinks", operation="add", shape_index=2, text="link", url="https://example.com"),
        "links": at("manage_hyperlinks", operation="list"),
        "links in an unknown way": at("manage_hyperlinks", operation="sing"),
        "optimize": at("optimize_slide_text", 1),
        "optimize a missing slide": at("optimize_slide_text", 99),
        "optimize with sizes": at("optimize_slide_text", 0, min_font_size=10, max_font_size=20),
        "masters": on("manage_slide_masters", operation="list"),
        "layouts": on("manage_slide_masters", operation="get_layouts", master_index=0),
        "masters in an unknown way": on("manage_slide_masters", operation="sing"),
        "a transition": at("manage_slide_transitions", operation="set", transition_type="fade", duration=1.5),
        "transition": at("manage_slide_transitions", operation="get"),
        "transition of a missing slide": at("manage_slide_transitions", 99, operation="get"),
        "text of a slide": at("extract_slide_text", 1),
        "text of a missing slide": at("extract_slide_text", 99),
        "text of an unknown presentation": call("extract_slide_text", slide_index=0, presentation_id="nowhere"),
        "text of all": on("extract_presentation_text"),
        "text without slides": on("extract_presentation_text", include_slide_info=False),
        "text of all of an unknown one": call("extract_presentation_text", presentation_id="nowhere"),
    }
    | SAVED,
)

DESIGNS = Scenario(
    "designs",
    seed={"pixel.png": PIXEL, "no.ttf": "this is no font"},
    calls=STARTED
    | {
        "color schemes": on("apply_professional_design", operation="get_schemes"),
        "a professional slide": on(
            "apply_professional_design", operation="slide", slide_type="title_content", title="T", content=["a", "b"]
        ),
        "a theme": on("apply_professional_design", operation="theme", color_scheme="elegant_green"),
        "enhance": on("apply_professional_design", operation="enhance", slide_index=0),
        "design in an unknown way": on("apply_professional_design", operation="sing"),
        "templates": call("list_slide_templates"),
        "templates again": call("list_slide_templates"),
        "templates with an argument": call("list_slide_templates", x=1),
        "template": call("get_template_info", template_id="title_slide"),
        "unknown template": call("get_template_info", template_id="nowhere"),
        "template without an id": call("get_template_info"),
        "apply": at("apply_slide_template", 1, template_id="title_slide", content_mapping={"title": "Applied ü"}),
        "apply an unknown one": at("apply_slide_template", 1, template_id="nowhere"),
        "apply to a missing slide": at("apply_slide_template", 99, template_id="title_slide"),
        "create": on("create_slide_from_template", template_id="bullet_list", content_mapping={"title": "Made"}),
        "create from a template": on("create_slide_from_template", template_id="two_column_text"),
        "create from an unknown one": on("create_slide_from_template", template_id="nowhere"),
        "a sequence": on(
            "create_presentation_from_templates",
            template_sequence=[{"template_id": "title_slide", "content": {"title": "Q"}}],
            presentation_title="Sequence",
        ),
        "a sequence of unknown ones": on(
            "create_presentation_from_templates", template_sequence=[{"template_id": "nowhere"}]
        ),
        "an empty sequence": on("create_presentation_from_templates", template_sequence=[]),
        "generate": on("auto_generate_presentation", topic="Tea", slide_count=3, include_charts=False),
        "generate without a topic": on("auto_generate_presentation"),
        "fonts of no font": call("manage_fonts", operation="analyze", font_path="{root}/no.ttf"),
        "fonts of a missing one": call("manage_fonts", operation="analyze", font_path="{root}/absent.ttf"),
        "fonts in an unknown way": call("manage_fonts", operation="sing", font_path="{root}/no.ttf"),
        "text": on("extract_presentation_text"),
    }
    | SAVED,
)

TABLE = Table(
    name="powerpoint",
    server="powerpoint",
    benchmark="MCP_Atlas",
    upstream="powerpoint",
    scenarios=(FILES, SLIDES, DESIGNS),
)
