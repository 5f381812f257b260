"""Runs in an environment with llama-cpp-python: `python llama_driver.py MODEL.gguf QUESTIONS.json OUT.npz`.

QUESTIONS.json: `prompts` and `ends` as token ids, `tokens`, the most that an answer has. OUT.npz: `logits`
[prompt, vocabulary] of each first answer token, and `answers` [prompt, tokens], greedy, filled up with −1.
One thread, keys and values in float32. Nothing of excise is imported here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import llama_cpp
import numpy as np


def newest_logits(model: llama_cpp.Llama) -> np.ndarray:
    """Logits after the last token that was evaluated: [vocabulary]."""
    pointer = llama_cpp.llama_get_logits_ith(model.ctx, -1)
    return np.ctypeslib.as_array(pointer, shape=(model.n_vocab(),)).copy()


def main() -> None:
    path, questions, out = sys.argv[1:]
    asked = json.loads(Path(questions).read_text(encoding="utf-8"))
    prompts, tokens, ends = asked["prompts"], asked["tokens"], set(asked["ends"])
    model = llama_cpp.Llama(
        path,
        n_ctx=max(map(len, prompts)) + tokens,
        n_threads=1,
        n_threads_batch=1,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        verbose=False,
    )
    logits = np.empty((len(prompts), model.n_vocab()), np.float32)
    answers = np.full((len(prompts), tokens), -1, np.int64)
    for row, prompt in enumerate(prompts):
        model.reset()
        model.eval(prompt)
        newest = logits[row] = newest_logits(model)
        for place in range(tokens):
            answers[row, place] = newest.argmax()
            if int(answers[row, place]) in ends or place == tokens - 1:
                break
            model.eval([int(answers[row, place])])
            newest = newest_logits(model)
    np.savez(out, logits=logits, answers=answers, version=llama_cpp.__version__)


if __name__ == "__main__":
    main()
