"""How fast a model runs here, and how fast its peers do: the work of `minicpmv bench`.

`cases` says what is measured, `subjects` how a loaded model is asked for it, `worker` does the same
in the process of another checkout, `llama_cpp` with a server of llama.cpp; `runner` lets them take
turns, and `report` prints what was found. `checkpoint` writes a model of true widths and random
weights where there is none to load.

Modules that run inside another checkout (`cases`, `prompts`, `subjects`, `worker`) use of the
package only what that checkout has too: `load`, the processor, and the model's `generate`.
"""
