"""Answers in the file that the servers of benchmarks with hidden references take."""

import json
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from ..items import Item
from ..page import Page

_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_MOST = 32767  # characters of a cell
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_SHEET = "application/vnd.openxmlformats-officedocument.spreadsheetml"
_HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
# The parts of a workbook with one sheet.
_PARTS = {
    "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types"><Default Extension="rels" '
    'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    f'<Override PartName="/xl/workbook.xml" ContentType="{_SHEET}.sheet.main+xml"/>'
    f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{_SHEET}.worksheet+xml"/>'
    "</Types>",
    "_rels/.rels": f'<Relationships xmlns="{_PACKAGE}/relationships"><Relationship Id="r1" '
    f'Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
    "xl/workbook.xml": f'<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}"><sheets>'
    '<sheet name="Sheet1" sheetId="1" r:id="r1"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_PACKAGE}/relationships"><Relationship '
    f'Id="r1" Type="{_OFFICE}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
}


def write_submission(
    page: Page, items: Iterable[Item], answers: Mapping[str, str], folder: Path
) -> Path:
    """Write the answers of a run; items without one are sent in with an empty one.

    Returns:
        `submission.json`, `[{"questionId": 1, "answer": "..."}]`, for documents;
        `submission.xlsx`, the table of the benchmark with a column `prediction`, for all others.
    """
    if page.name.startswith("docvqa"):
        found = [{"questionId": _whole(i.id), "answer": answers.get(i.id, "")} for i in items]
        path = folder / "submission.json"
        path.write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")
        return path
    path = folder / "submission.xlsx"
    _write_table(path, (_row(item, answers.get(item.id, "")) for item in items))
    return path


def _row(item: Item, answer: str) -> dict[str, Any]:
    shown = {"index": _whole(item.id), "question": item.question, **item.options}
    others = {
        name: value
        for name, value in item.fields.items()
        if name not in (*shown, "image", "image_path") and isinstance(value, str | int | float)
    }
    return {**shown, **others, "prediction": answer}


def _whole(text: str) -> Any:
    """A number where the text is one, as the data has it."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else text


def _write_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """A workbook; the columns are those of the rows, in the order they come in."""
    kept = list(rows)
    names = list(dict.fromkeys(name for row in kept for name in row if name != "prediction"))
    names.append("prediction")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        for name, text in _PARTS.items():
            book.writestr(name, _HEAD + text)
        with book.open("xl/worksheets/sheet1.xml", "w") as sheet:
            sheet.write(f'{_HEAD}<worksheet xmlns="{_MAIN}"><sheetData>'.encode())
            sheet.write(_line(names))
            for row in kept:
                sheet.write(_line([row.get(name, "") for name in names]))
            sheet.write(b"</sheetData></worksheet>")


def _line(values: Iterable[Any]) -> bytes:
    return f"<row>{''.join(map(_cell, values))}</row>".encode()


def _cell(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"<c><v>{value}</v></c>"
    text = escape(_NOT_XML.sub("", str(value))[:_MOST])
    return f'<c t="inlineStr"><is><t xml:space="preserve">{text}</t></is></c>'
