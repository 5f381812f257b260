"""The engine: forward passes and greedy decoding with as little padding and repetition as possible.

It knows token ids, not text: chat templates, tokenisers and verdicts come from outside.
"""
