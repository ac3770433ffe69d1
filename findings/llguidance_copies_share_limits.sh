#!/usr/bin/env bash
# llguidance 1.9.1: a matcher made by deep_copy() fails for good when another copy has used up the limit of lexer states,
# and its mask then lets the text end, as if it were complete.
#
# LLMatcher.deep_copy() is the way to begin many texts of one grammar without compiling it again; a copy has a state of its
# own, so an engineer expects limits (LLParserLimits.max_lexer_states) to count for each text. The automaton of the lexer is
# shared, and so is its count: here each text of 6,000 letters finds some new states, the third passes the limit, and every
# copy after it fails at its first token, while a matcher made anew is well. Nothing is raised: compute_mask on a matcher
# in error gives a mask of the end token alone. Whoever does not ask is_error() takes a broken text for a finished one.
#
# Seen: copy 1: ok. copy 2: ok. copy 3: error after 3440 letters, allowed [end]. copy 4: error after 0 letters, allowed [end]. anew: ok.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "llguidance==1.9.1" "numpy>=2,<3"
cat > "$work/copies.py" <<'PYTHON'
import random

import llguidance
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

END, SIZE = 256, 257


class Letters:
    """A vocabulary of single bytes and an end."""

    tokens = [bytes([byte]) for byte in range(END)] + [b"<end>"]
    eos_token_id, bos_token_id, special_token_ids = END, None, [END]

    def __call__(self, text):
        return list(text.encode() if isinstance(text, str) else text)


tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Letters()))
grammar = llguidance.LLMatcher.grammar_from_regex(r"(a|b)*a(a|b){14}c")
mask = allocate_token_bitmask(1, SIZE)
letters = random.Random(0)


def made():
    limits = llguidance.LLParserLimits(max_lexer_states=20_000)
    return llguidance.LLMatcher(tokenizer, grammar, limits=limits)


def told(matcher):
    fill_next_token_bitmask(matcher, mask, 0)
    allowed = [token for token in range(SIZE) if mask[0][token // 32] >> (token % 32) & 1]
    return "end" if allowed == [END] else "letters"


first, failed = made(), []
for number in range(1, 5):
    copy, count = first.deep_copy(), 0
    while count < 6000 and told(copy) == "letters":
        assert copy.consume_token(ord(letters.choice("ab")))
        count += 1
    failed.append(copy.is_error())
    state = f"error after {count} letters, allowed [{told(copy)}]" if copy.is_error() else "ok"
    print(f"copy {number}: {state}")
anew = made()
print(f"anew: {told(anew)}, error: {anew.is_error()}")
assert failed[0] is False and failed[-2:] == [True, True], "CHANGED: copies have limits of their own"
assert told(first.deep_copy()) == "end", "CHANGED: a matcher in error no longer allows the end"
assert not anew.is_error()
PYTHON
"$work/venv/bin/python" "$work/copies.py" 2> "$work/warnings" || { cat "$work/warnings"; exit 1; }
echo "as described: copies share one limit, and a failed one lets the text end"
