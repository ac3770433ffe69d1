"""What can be asked about a table: single cells, rows and columns, all of it as Markdown.

Rows are counted below the header, from 1, as people read them.
"""

import random
from collections.abc import Callable

from minicpmv.scenes.scene import Question, Scene, Table
from minicpmv.scenes.text import records

MAX_MARKDOWN = 240  # characters; longer tables are not asked for as a whole
ORDINALS = ("first", "second", "third", "fourth", "fifth")

# What people ask for a column of this heading besides its name; {} is the row's own name.
_NATURAL = {
    "price": ("How much is {}?", "What does {} cost?"),
    "age": ("How old is {}?",),
    "height": ("How tall is {}?",),
    "departs": ("When does {} leave?",),
    "arrives": ("When does {} arrive?",),
    "job": ("What does {} do?",),
    "weight": ("How heavy is {}?",),
}


def _cell(scene: Scene, rng: random.Random) -> Question | None:
    table = scene.table
    if table is None:
        return None
    lot = rng.random()
    if lot < 0.12:
        return _heading(table, rng)
    if lot < 0.27:
        found = _row_with(table, rng)
        if found is not None:
            return found
    i, j = rng.randrange(len(table.rows)), rng.randrange(1, len(table.header))
    if lot < 0.52:
        j = rng.randrange(len(table.header))
        return _by_number(table, i, j, rng)
    return _by_name(table, i, j, rng)


def _answer(text: str, cell: str) -> Question:
    bare = cell.lstrip("$").rstrip("%")
    for unit in (" cm", " mm", " g"):
        bare = bare.removesuffix(unit)
    return Question("table_cell", text, cell, (bare,) if bare != cell else (), spelt=True)


def _by_name(table: Table, i: int, j: int, rng: random.Random) -> Question:
    key, heading, cell = table.rows[i][0], table.header[j], table.rows[i][j]
    named = f"the {key}" if table.header[0].title() in records.COUNTABLE_KEYS else key
    forms = [
        "What is the {heading} of {named}?",
        "What is the {heading} of {named}?",
        "What is the {heading} for {named}?",
        "Which {heading} does {named} have?",
        "What {heading} does the table give for {named}?",
        "Look at the row {key}. What is the {heading}?",
        "What is in the row {key} and the column {heading}?",
        "Find the {heading} of {named}.",
        "{key}: {heading}?",
        "What is {key}'s {heading}?",
    ]
    natural = _NATURAL.get(heading.lower(), ())
    if heading.title() == "Price" and {"cost", "total"} & {name.lower() for name in table.header}:
        natural = ()  # how much it is would be a matter of taste
    if natural and rng.random() < 0.4:
        return _answer(rng.choice(natural).format(named), cell)
    said = heading.lower() if rng.random() < 0.4 else heading
    return _answer(rng.choice(forms).format(heading=said, named=named, key=key), cell)


def _by_number(table: Table, i: int, j: int, rng: random.Random) -> Question:
    row, column = i + 1, j + 1
    forms = [
        "What is in row {row}, column {column}?",
        "What does row {row}, column {column} say?",
        "What is written in the cell in row {row} and column {column}?",
        "What is in the {nth} row of column {column}?",
        "What is the {heading} in row {row}?",
        "What is the {heading} in the {nth} row?",
        "What does the {nth} row say under {heading}?",
        "Read the cell in row {row}, column {column}.",
    ]
    if i == len(table.rows) - 1:
        forms += ["What is the {heading} in the last row?"] * 2
    text = rng.choice(forms).format(
        row=row, column=column, nth=ORDINALS[i], heading=table.header[j]
    )
    return _answer(text, table.rows[i][j])


def _heading(table: Table, rng: random.Random) -> Question:
    j = rng.randrange(len(table.header))
    forms = [
        "What is the heading of column {}?",
        "What is column {} called?",
        "What is the {nth} column called?",
        "What is the header of the {nth} column?",
        "What is the title of the {nth} column?",
    ]
    if j == len(table.header) - 1:
        forms.append("What is the last column called?")
    return _answer(rng.choice(forms).format(j + 1, nth=ORDINALS[j]), table.header[j])


def _row_with(table: Table, rng: random.Random) -> Question | None:
    """Which row holds a cell that stands only once in its column."""
    j = rng.randrange(1, len(table.header))
    column = [row[j] for row in table.rows]
    sole = [i for i, cell in enumerate(column) if column.count(cell) == 1]
    if not sole:
        return None
    i = rng.choice(sole)
    form = rng.choice(
        (
            "Which {key} has the {heading} {cell}?",
            "Which {key} has {cell} under {heading}?",
            "For which {key} is the {heading} {cell}?",
            "Whose {heading} is {cell}?"
            if table.header[0] == "Name"
            else "What has {heading} {cell}?",
        )
    )
    text = form.format(key=table.header[0], heading=table.header[j], cell=column[i])
    return _answer(text, table.rows[i][0])


def markdown(table: Table) -> str:
    """The table as GitHub writes it: `| a | b |` per row, `|---|---|` under the header."""
    lines = ["| " + " | ".join(row) + " |" for row in (table.header, *table.rows)]
    return "\n".join([lines[0], "|" + "---|" * len(table.header), *lines[1:]])


def _line(scene: Scene, rng: random.Random) -> Question | None:
    """A whole row or column, without its heading, or the header."""
    table = scene.table
    if table is None:
        return None
    lot = rng.random()
    if lot < 0.5:
        i = rng.randrange(len(table.rows))
        forms = [
            "Read row {row}.",
            "Read the {nth} row.",
            "What is in row {row}?",
            "What does the {nth} row say?",
            "Read the row {key}.",
            "What is in the row of {key}?",
        ]
        text = rng.choice(forms).format(row=i + 1, nth=ORDINALS[i], key=table.rows[i][0])
        return Question("table_line", text, " | ".join(table.rows[i]), spelt=True)
    if lot < 0.65:
        forms = [
            "What are the columns called?",
            "What are the headings of the table?",
            "Read the header of the table.",
            "Which columns does the table have?",
        ]
        return Question("table_line", rng.choice(forms), " | ".join(table.header), spelt=True)
    j = rng.randrange(len(table.header))
    forms = [
        "Read column {col}.",
        "Read the {nth} column.",
        "What is in the column {heading}?",
        "Read the column {heading}.",
        "What is listed under {heading}?",
    ]
    text = rng.choice(forms).format(col=j + 1, nth=ORDINALS[j], heading=table.header[j])
    cells = [row[j] for row in table.rows]
    return Question("table_line", text, " | ".join(cells), spelt=True)


def _check(scene: Scene, rng: random.Random) -> Question | None:
    """Yes or no; a false cell is one that stands elsewhere in the column."""
    table = scene.table
    if table is None:
        return None
    i, j = rng.randrange(len(table.rows)), rng.randrange(1, len(table.header))
    key, heading, cell = table.rows[i][0], table.header[j], table.rows[i][j]
    others = sorted({row[j] for row in table.rows} - {cell})
    if not others:
        return None
    truth = rng.random() < 0.5
    if not truth:
        cell = rng.choice(others)
    forms = [
        "Is the {heading} of {key} {cell}?",
        "Does {key} have the {heading} {cell}?",
        "Is {cell} the {heading} of {key}?",
        "Does the table give {cell} as the {heading} of {key}?",
        "Is it true that the {heading} of {key} is {cell}?",
    ]
    text = rng.choice(forms).format(heading=heading, key=key, cell=cell)
    return Question("table_check", text, "yes" if truth else "no")


def _markdown(scene: Scene, rng: random.Random) -> Question | None:
    if scene.table is None:
        return None
    answer = markdown(scene.table)
    if len(answer) > MAX_MARKDOWN:
        return None
    form = rng.choice(
        (
            "Convert the table to Markdown.",
            "Convert this table to Markdown.",
            "Write the table in Markdown.",
            "Transcribe the table as Markdown.",
            "Give the table as Markdown.",
            "Turn the table into a Markdown table.",
            "Extract the table in Markdown format.",
        )
    )
    return Question("table_markdown", form, answer, spelt=True)


def _size(scene: Scene, rng: random.Random) -> Question | None:
    if scene.table is None:
        return None
    if rng.random() < 0.5:
        forms = [
            "How many columns does the table have?",
            "How many columns are there?",
            "How many columns are in the table?",
            "Count the columns of the table.",
        ]
        return Question("table_size", rng.choice(forms), str(len(scene.table.header)))
    forms = [
        "How many rows are below the header?",
        "How many rows does the table have below the header?",
        "How many rows does the table have, without the header?",
        "How many rows of data are there?",
        "How many rows of data does the table have?",
        "Count the rows below the header.",
    ]
    return Question("table_size", rng.choice(forms), str(len(scene.table.rows)))


QUESTIONS: dict[str, Callable[[Scene, random.Random], Question | None]] = {
    "table_cell": _cell,
    "table_markdown": _markdown,
    "table_size": _size,
    "table_line": _line,
    "table_check": _check,
}
WEIGHTS = {
    "table_cell": 6.0,
    "table_markdown": 2.0,
    "table_size": 1.0,
    "table_line": 1.5,
    "table_check": 0.7,
}
