"""What a file of training data holds, counted while its rows are encoded."""

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from .faults import Fault
from .packing import plan_rows

if TYPE_CHECKING:
    from .encode import Example


@dataclass
class Report:
    """Numbers of one file; those of tokens and slices are for one model and its settings.

    Fields:
        rows: in the file, broken ones too.
        good_rows: that became examples.
        preferences: whether rows are pairs of answers; each is then two examples.
        turns: number of answers -> rows that have as many.
        text_only_rows: rows without pictures.
        pictures, videos: in good rows; distinct_pictures: other pixels or another cut; slices.
        examples: see `encode.Example`; split_rows: rows that need several.
        trimmed_rows: rows with an answer whose white space at the ends the template leaves out.
        tokens: of all examples; trained_tokens: those that are learned.
        median_tokens, tokens_95, longest_tokens, longest_row: of examples, in tokens.
        packed_rows: rows of `max_length` tokens that the examples of conversations fill in
            training.
        max_length: the limit; long_rows: rows above it; long_tokens: their tokens beyond it.
        skipped_rows: rows with faults that were left out.
        faults: kind -> how many.
        all_faults: each fault, in the order of the file.
    """

    rows: int = 0
    good_rows: int = 0
    preferences: bool = False
    turns: dict[int, int] = field(default_factory=dict)
    text_only_rows: int = 0
    pictures: int = 0
    distinct_pictures: int = 0
    videos: int = 0
    slices: int = 0
    examples: int = 0
    split_rows: int = 0
    trimmed_rows: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    median_tokens: int = 0
    tokens_95: int = 0
    longest_tokens: int = 0
    longest_row: int = -1
    packed_rows: int = 0
    max_length: int | None = None
    long_rows: int = 0
    long_tokens: int = 0
    skipped_rows: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    all_faults: list[Fault] = field(default_factory=list)
    lengths: "array[int]" = field(default_factory=lambda: array("i"), repr=False, compare=False)

    def add(self, row: int, examples: "Sequence[Example]") -> None:
        """Count a row that can be trained."""
        self.good_rows += 1
        turns = 1 if self.preferences else sum(len(example.spans) for example in examples)
        self.turns[turns] = self.turns.get(turns, 0) + 1
        self.split_rows += not self.preferences and len(examples) > 1
        self.trimmed_rows += any(example.is_trimmed for example in examples)
        shown = max((example.pictures for example in examples), key=len)
        self.text_only_rows += not shown
        self.pictures += sum(ref.kind == "image" for ref in shown)
        self.videos += sum(ref.kind == "video" for ref in shown)
        self.slices += sum(ref.num_slices for ref in shown)
        self.examples += len(examples)
        self.trained_tokens += sum(example.num_trained for example in examples)
        for example in examples:
            length = len(example.input_ids)
            self.lengths.append(length)
            self.tokens += length
            if length + example.num_cut > self.longest_tokens:
                self.longest_tokens, self.longest_row = length + example.num_cut, row
        beyond = sum(example.num_cut for example in examples)
        self.long_rows += beyond > 0
        self.long_tokens += beyond

    def add_fault(self, fault: Fault) -> None:
        """Count a fault."""
        self.faults[fault.kind] = self.faults.get(fault.kind, 0) + 1
        self.all_faults.append(fault)
        num_tokens = getattr(fault, "num_tokens", 0)
        if num_tokens:
            self.long_rows += 1
            self.long_tokens += num_tokens - (self.max_length or 0)
            if num_tokens > self.longest_tokens:
                self.longest_tokens, self.longest_row = num_tokens, fault.row

    def finish(self) -> None:
        """Fill in what needs all lengths."""
        lengths = np.frombuffer(self.lengths, dtype=np.int32)
        if len(lengths):
            self.median_tokens = int(np.percentile(lengths, 50, method="nearest"))
            self.tokens_95 = int(np.percentile(lengths, 95, method="nearest"))
            if self.max_length is not None and not self.preferences:
                self.packed_rows = len(plan_rows(lengths, self.max_length, seed=0))

    @property
    def num_faults(self) -> int:
        """Faults of all kinds."""
        return sum(self.faults.values())

    @property
    def trained_share(self) -> float:
        """Trained tokens among all, 0 to 1."""
        return self.trained_tokens / self.tokens if self.tokens else 0.0

    def as_dict(self) -> dict[str, Any]:
        """The numbers and the faults as JSON writes them."""
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "lengths"}
        found["turns"] = {str(turns): rows for turns, rows in sorted(self.turns.items())}
        found["all_faults"] = [vars(fault) for fault in self.all_faults]
        return found | {"trained_share": round(self.trained_share, 4)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Report":
        """What `as_dict` gave."""
        known = {f.name for f in fields(cls)}
        given = {name: value for name, value in values.items() if name in known}
        given["turns"] = {int(turns): rows for turns, rows in given.get("turns", {}).items()}
        names = ("row", "field", "kind", "message")
        given["all_faults"] = [
            Fault(**{name: fault[name] for name in names}) for fault in given.get("all_faults", [])
        ]
        return cls(**given)

    def as_text(self) -> str:
        """The numbers, one a line."""
        unit = "preferences" if self.preferences else "conversations"
        turns = ", ".join(f"{rows} with {n}" for n, rows in sorted(self.turns.items()))
        longest = f"longest {self.longest_tokens} in row {self.longest_row}"
        lines = [
            ("rows", f"{self.rows}"),
            (unit, f"{self.good_rows}" + (f" (answers: {turns})" if turns else "")),
            ("text only", f"{self.text_only_rows}"),
            ("pictures", f"{self.pictures} ({self.distinct_pictures} distinct)"),
            ("videos", f"{self.videos}"),
            ("slices", f"{self.slices}"),
            (
                "tokens",
                f"{self.tokens} (median {self.median_tokens}, 95 % {self.tokens_95}, {longest})"
                if self.longest_tokens
                else "0",
            ),
            ("trained tokens", f"{self.trained_tokens} ({100 * self.trained_share:.1f} %)"),
        ]
        if self.max_length is not None:
            beyond = f"{self.long_rows} rows, {self.long_tokens} tokens"
            lines.append((f"over {self.max_length} tokens", beyond))
            if self.packed_rows:
                lines.append((f"packed into {self.max_length}", f"{self.packed_rows} rows"))
        if self.split_rows:
            lines.append(("rows of several examples", f"{self.split_rows}"))
        if self.trimmed_rows:
            lines.append(("rows with trimmed answers", f"{self.trimmed_rows}"))
        if self.skipped_rows:
            lines.append(("skipped rows", f"{self.skipped_rows}"))
        if self.faults:
            kinds = ", ".join(f"{kind} {n}" for kind, n in Counter(self.faults).most_common())
            lines.append(("faults", f"{self.num_faults} ({kinds})"))
        width = max(len(name) for name, _ in lines)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)
