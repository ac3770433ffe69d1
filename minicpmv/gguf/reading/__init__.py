"""GGUF files as a checkpoint of this family: the way back from `minicpmv.export.gguf`.

recipes.py    one tensor of the model from the tensors of a file
language.py   names of the language model
vision.py     names of the vision side
settings.py   config.json and its neighbours
tokens.py     the files of a tokenizer
model.py      the two files together
"""
