"""Who says whether an answer is right where rules cannot: a server, a loaded model, a function.

`make_judge` takes what `--judge` names. Every judge answers the same requests and says why it has
not answered one; nothing is ever guessed in its place.
"""

from .protocol import Judge, JudgeReply, JudgeRequest, Why

__all__ = ["Judge", "JudgeReply", "JudgeRequest", "Why"]
