"""One row of training data token by token, with the tokens that are trained marked."""

from collections.abc import Iterator, Sequence
from typing import Any

from .encode import NO_TARGET, Example

HEAD = "  position      id  text"


def shown_example(processor: Any, example: Example) -> str:
    """A table with a line for each token, and `*` before those that are trained.

    Visual placeholders of one slice are one line. A terminator that is trained although the
    conversation goes on without it has a line of its own, with `+`.

    Args:
        processor: of the model that the example was encoded for.
    """
    counts = [f"{len(example.input_ids)} tokens", f"{example.num_trained} trained"]
    counts += [f"{len(example.pictures)} pictures"] if example.pictures else []
    part = f", example {example.part + 1}" if example.part else ""
    title = f"row {example.row}{part}: {', '.join(counts)}"
    return "\n".join([title, HEAD, *_lines(processor.tokenizer, example)])


def _lines(tokenizer: Any, example: Example) -> Iterator[str]:
    ids, targets = example.input_ids.tolist(), example.targets.tolist()
    slices = iter(_slices(example.mm_token_type_ids.tolist()))
    following = next(slices, None)
    position = 0
    while position < len(ids):
        before = targets[position - 1] if position else NO_TARGET
        if before not in (NO_TARGET, ids[position]):
            yield _line("+", position, before, _text(tokenizer, before))
        if following is not None and position == following[0]:
            start, end = following
            text = f"{end - start} visual tokens"
            yield _line(" ", position, ids[position], text)
            position, following = end, next(slices, None)
            continue
        mark = "*" if before == ids[position] else " "
        yield _line(mark, position, ids[position], _text(tokenizer, ids[position]))
        position += 1
    if targets and targets[-1] != NO_TARGET:
        yield _line("+", len(ids), targets[-1], _text(tokenizer, targets[-1]))


def _slices(mask: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of ones: first place and the one after the last."""
    edges = [0, *mask, 0]
    starts = [i for i in range(len(mask)) if edges[i + 1] and not edges[i]]
    ends = [i + 1 for i in range(len(mask)) if edges[i + 1] and not edges[i + 2]]
    return list(zip(starts, ends, strict=True))


def _text(tokenizer: Any, token: int) -> str:
    """A token as Python would write it, its white space seen."""
    word = tokenizer.convert_ids_to_tokens(token)
    text = tokenizer.decode([token])
    # Pieces of SentencePiece lose the space before a word when they stand alone.
    text = f" {text}" if word.startswith("▁") and not text.startswith(" ") else text
    # A part of a character.
    return repr(word if "\N{REPLACEMENT CHARACTER}" in text else text)


def _line(mark: str, position: int, token: int, text: str) -> str:
    return f"{mark} {position:>8}  {token:>6}  {text}"
