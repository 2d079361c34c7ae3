"""Curves that one can zoom and point at, drawn in the browser by BokehJS.

The script comes from the installed bokeh package. What it draws is a document in Bokeh's own
serialization, written here: importing bokeh takes half a second, and a report needs only its
script. `layout` hands the same document to bokeh for notebooks, so that it checks every word of it.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib import metadata, resources, util
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.report import ticks
from sim.report.curves import columns_of, reasons_of, span_s, top_pods
from sim.report.waiting import TOP_GANGS, PendingCurve

if TYPE_CHECKING:
    from bokeh.models.ui import UIElement

Json = dict[str, Any]

PANEL_PX = 122  #: of a curve, without its time axis
AXIS_PX = 40
SAID_PX = 46  #: two lines above a curve
HEAD_PX = 46
LEAST_SPAN_S = 1.0  #: one cannot zoom in further
#: matplotlib's patterns of reasons, as BokehJS draws them
HATCH = {"": " ", "///": "/", "\\\\\\": "\\", "...": ".", "xxx": "x", "|||": "|"}
INK, GRID = "#1a1a1a", "#e3e3e3"  #: pages give other colours by CSS
_LAYOUTS = count()  #: numbers of layouts, as a notebook may show several

_TEXT_STYLE = (
    ":host{display:block;width:100%;padding-top:6px;"
    f"font:13px/1.5 system-ui,'DejaVu Sans',sans-serif;color:var(--ink,{INK})}}"
    "div{display:block}p{margin:0}b{margin-right:.6em}"
    "span{display:inline-block;white-space:nowrap;margin-left:.7em}"
    "i{display:inline-block;width:.8em;height:.8em;margin-right:.3em;border:1px solid #888;"
    "vertical-align:-.05em}"
)
#: on a phone lines wrap; room for them keeps the curves where they are while one points at them
SAID_STYLE = (
    f"{_TEXT_STYLE}:host{{min-height:{SAID_PX - 6}px}}"
    "p{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}"
    "@media(max-width:40rem){p{white-space:normal}:host{min-height:140px}}"
)


def height_px(curves: Sequence[PendingCurve]) -> int:
    """Return how high the picture is on a wide screen."""
    return HEAD_PX + len(curves) * (SAID_PX + PANEL_PX) + AXIS_PX


@cache
def script() -> str:
    """Return BokehJS, from the installed package."""
    found = util.find_spec("bokeh")
    assert found is not None and found.origin is not None
    static = Path(found.origin).parent / "server" / "static" / "js"
    return (static / "bokeh.min.js").read_text("utf-8")


def layout(curves: Sequence[PendingCurve]) -> UIElement:
    """Return the picture as a layout of bokeh, for `bokeh.io.show` in a notebook."""
    from bokeh.document import Document

    json_: Any = _document(curves, f"n{next(_LAYOUTS)}", _plain, can_drag=True)
    document = Document.from_json(json_)
    (root,) = document.roots
    document.clear()
    return root  # type: ignore[return-value]


def packed(curves: Sequence[PendingCurve], key: str) -> str:
    """Return the picture for a page: its document as JSON, gzip and base64.

    `key` tells it from the others of the page. Columns of numbers are differences from row to row,
    which the script of the page adds up.
    """
    document = _document(curves, key, _differences)
    item = {"root_id": document["roots"][0]["id"], "doc": document, "version": _version()}
    text = json.dumps(item, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode("ascii")


def _version() -> str:
    return metadata.version("bokeh")


def _plain(values: np.ndarray) -> Any:
    return values.tolist()


def _differences(values: np.ndarray) -> Any:
    """Return a column as the differences of its rows, in thousandths if it is not whole."""
    if values.dtype.kind == "f":
        return {"differences": np.diff(np.rint(values * 1000).astype(np.int64), prepend=0).tolist(),
                "per": 1000}  # fmt: skip
    return {"differences": np.diff(values, prepend=0).tolist(), "per": 1}


# -- the document ------------------------------------------------------------------------------


@dataclass(slots=True)
class _Models:
    """Makes objects of Bokeh's serialization, with numbers that no other picture has."""

    key: str
    made: int = 0

    def __call__(self, kind: str, **attributes: Any) -> Json:
        self.made += 1
        number = f"{self.key}-{self.made}"
        return {"type": "object", "name": kind, "id": number, "attributes": attributes}


def _mentioned_once(part: Any, seen: set[str]) -> Any:
    """Return a tree of models in which all mentions of a model but the first refer to that one."""
    if isinstance(part, list):
        has_models = bool(part) and isinstance(part[0], dict | list)  # else a column or a label
        return [_mentioned_once(one, seen) for one in part] if has_models else part
    if not isinstance(part, dict):
        return part
    if part.get("type") == "object":
        if part["id"] in seen:
            return {"id": part["id"]}
        seen.add(part["id"])
    if part.get("type") == "map":
        entries = [[name, _mentioned_once(one, seen)] for name, one in part["entries"]]
        return {**part, "entries": entries}
    return {name: _mentioned_once(one, seen) for name, one in part.items()}


def _map(entries: Mapping[str, Any]) -> Json:
    return {"type": "map", "entries": [list(entry) for entry in entries.items()]}


@dataclass(frozen=True, slots=True)
class _Shared:
    """The models that all panels of a picture know."""

    make: _Models
    x: Json
    y: Json
    levels: list[str]  #: of the sources: pods of a reason and of those below it
    pointer: Json


def _document(
    curves: Sequence[PendingCurve],
    key: str,
    column: Callable[[np.ndarray], Any],
    *,
    can_drag: bool = False,
) -> Json:
    make = _Models(key)
    start_s, end_s = span_s(curves)
    names, reasons = columns_of(curves), reasons_of(curves)
    levels = [f"level_{place}" for place in range(len(names))]
    sources = [make("ColumnDataSource", data=_data(curve, names, column)) for curve in curves]
    marks = [make("Span", dimension="height", level="overlay", visible=False, line_color=INK,
                  line_dash=[3, 2]) for _ in curves]  # fmt: skip
    head = make("bokeh.models.dom.HTML", html="<p>Point at the curves.</p>")
    said = [make("bokeh.models.dom.HTML", html=f"<p><b>{escape(one.name)}</b></p>")
            for one in curves]  # fmt: skip
    y = make("Range1d", name="pods", start=0, end=top_pods(curves))
    follow = make("CustomJS", code=_code("follow.js"), args=_map(
        {"sources": sources, "y": y, "top": levels[-1] if levels else "floor"}))  # fmt: skip
    x = make(
        "Range1d",
        name="time",
        start=start_s,
        end=end_s,
        bounds=[start_s, end_s],
        min_interval=min(LEAST_SPAN_S, end_s - start_s),
        js_property_callbacks=_map({"change:start": [follow], "change:end": [follow]}),
    )
    pointer = make("CustomJS", name="pointer", code=_code("pointer.js"), args=_map(
        {
            "sources": sources, "marks": marks, "head": head, "said": said, "x": x,
            "whole": [start_s, end_s], "levels": levels,
            "reasons": [[one.label, one.colour] for one in reasons],
            "arms": [_arm(curve) for curve in curves],
        }))  # fmt: skip
    shared = _Shared(make, x, y, levels, pointer)
    children = [_pane(make, head, _TEXT_STYLE)]
    for place, curve in enumerate(curves):
        is_last = place == len(curves) - 1
        children.append(_pane(make, said[place], SAID_STYLE))
        figure = _figure(shared, sources[place], [one.colour for one in reasons],
                         [HATCH.get(one.hatch, " ") for one in reasons],
                         has_axis=is_last, can_drag=can_drag)  # fmt: skip
        figure["attributes"]["renderers"].append(marks[place])
        if curve.steps.end_s < end_s:
            figure["attributes"]["center"].append(
                make("BoxAnnotation", left=curve.steps.end_s, fill_color="#808080", fill_alpha=0.2,
                     line_color=None))  # fmt: skip
        children.append(figure)
    root = make("Column", sizing_mode="stretch_width", spacing=0, children=children)
    config = make("DocumentConfig", notifications=make("Notifications"))
    roots = [_mentioned_once(root, set())]
    return {"version": _version(), "title": "", "config": config, "roots": roots}


def _data(curve: PendingCurve, names: Sequence[str], column: Callable[[np.ndarray], Any]) -> Json:
    """Return the columns of a curve; a last row ends the last step."""
    steps = curve.steps
    values = steps.values[:, [steps.columns.index(name) for name in names]].cumsum(axis=1)
    data = {"time_s": column(np.append(steps.time_s, steps.end_s))}
    data["floor"] = column(np.zeros(len(steps.time_s) + 1, dtype=np.int64))
    for place in range(len(names)):
        data[f"level_{place}"] = column(np.append(values[:, place], values[-1, place]))
    for place in range(TOP_GANGS):
        at = curve.gangs.at[:, place]
        data[f"gang_{place}"] = column(np.append(at, at[-1]))
    return _map(data)


def _arm(curve: PendingCurve) -> list[Any]:
    """Return the name of a curve and of its gangs: job, pods, GPUs and since when they wait."""
    gangs = curve.gangs.gangs
    return [
        curve.name,
        gangs["job"].astype(str).tolist(),
        gangs["num_pods"].tolist(),
        gangs["gpus"].tolist(),
        gangs["since_s"].round(3).tolist(),
    ]


def _pane(make: _Models, html: Json, style: str) -> Json:
    return make("Pane", elements=[html], stylesheets=[style])


def _figure(
    shared: _Shared,
    source: Json,
    colours: Sequence[str],
    hatches: Sequence[str],
    *,
    has_axis: bool,
    can_drag: bool,
) -> Json:
    make = shared.make
    floors = ["floor", *shared.levels]
    areas = [
        make("VAreaStep", x=_field("time_s"), y1=_field(floors[place]), y2=_field(level),
             step_mode="after", fill_color=colours[place], hatch_pattern=_value(hatches[place]),
             hatch_color=_value("#ffffff"), hatch_weight=_value(0.7), hatch_scale=_value(7.0))
        for place, level in enumerate(shared.levels)
    ]  # fmt: skip
    line = make("Step", x=_field("time_s"), y=_field(floors[-1]), mode="after",
                line_color=INK, line_width=1.0)  # fmt: skip
    numbers = make("LinearAxis", axis_label="pods", ticker=make(
        "AdaptiveTicker", base=10, mantissas=[1, 2, 5], min_interval=1, desired_num_ticks=4,
        num_minor_ticks=0), formatter=make("NumeralTickFormatter", format="0,0"))  # fmt: skip
    steps = [make("SingleIntervalTicker", interval=step_s, num_minor_ticks=0, desired_num_ticks=6)
             for step_s in ticks.STEPS_S]  # fmt: skip
    times = make("LinearAxis", axis_label="day and time of the run", visible=has_axis,
        ticker=make("CompositeTicker", tickers=steps, num_minor_ticks=0, desired_num_ticks=6),
        formatter=make("CustomJSTickFormatter", code=_code("clock.js")))  # fmt: skip
    grids = [make("Grid", dimension=place, axis=axis, grid_line_color=GRID)
             for place, axis in enumerate((times, numbers))]  # fmt: skip
    for axis in (times, numbers):
        axis["attributes"] |= {"axis_label_text_font_style": "normal", "axis_line_color": INK,
                               "major_label_text_color": INK, "axis_label_text_color": INK,
                               "major_tick_line_color": INK, "major_label_text_font_size": "12px",
                               "axis_label_text_font_size": "12px"}  # fmt: skip
    tools = [
        make("BoxZoomTool", name="drag", dimensions="width"),
        make("WheelZoomTool", name="wheel", dimensions="width", modifiers=_map({"ctrl": True})),
    ]
    toolbar = make("Toolbar", tools=tools, logo=None, active_drag="auto" if can_drag else None,
                   active_scroll="auto" if can_drag else None)  # fmt: skip
    return make(
        "Figure",
        x_range=shared.x,
        y_range=shared.y,
        x_scale=make("LinearScale"),
        y_scale=make("LinearScale"),
        renderers=[_glyph(make, source, one) for one in (*areas, line)],
        below=[times],
        left=[numbers],
        center=grids,
        toolbar=toolbar,
        toolbar_location=None,
        height=PANEL_PX + (AXIS_PX if has_axis else 0),
        sizing_mode="stretch_width",
        min_border_top=4,
        min_border_bottom=8,
        min_border_right=12,
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        lod_threshold=None,
        js_event_callbacks=_map(
            {event: [shared.pointer] for event in ("mousemove", "tap", "doubletap")}
        ),
    )


def _glyph(make: _Models, source: Json, glyph: Json) -> Json:
    return make("GlyphRenderer", data_source=source, glyph=glyph,
                view=make("CDSView", filter=make("AllIndices")))  # fmt: skip


def _field(name: str) -> Json:
    return {"type": "field", "field": name}


def _value(value: object) -> Json:
    return {"type": "value", "value": value}


@cache
def _code(name: str) -> str:
    return resources.files("sim.report").joinpath("scripts", name).read_text("utf-8")
