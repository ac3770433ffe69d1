"""Two roads to one number, for users: is this checkpoint, here, what it should be?

`roads.py` compares a model with itself run another way, or with another format of it; `golden.py`
replays what the released code computed. Both say which stage drifts first.
"""
