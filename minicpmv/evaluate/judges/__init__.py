"""Who says whether an answer is right where rules cannot: a server, a loaded model, a function.

`make_judge` takes what `--judge` names. Every judge answers the same requests and says why it has
not answered one; nothing is ever guessed in its place. `Judgements` keeps what was said.
"""

from .choice import EXACT, make_judge
from .function import FunctionJudge
from .journal import Judgements
from .protocol import WHYS, Judge, JudgeReply, JudgeRequest, Why

__all__ = [
    "EXACT",
    "WHYS",
    "FunctionJudge",
    "Judge",
    "JudgeReply",
    "JudgeRequest",
    "Judgements",
    "Why",
    "make_judge",
]
