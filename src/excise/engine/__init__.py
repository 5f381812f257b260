"""The engine: forward passes and greedy decoding with as little padding and repetition as possible.

It knows token ids, not text: rooms above it know chat templates, tokenizers and verdicts.
"""
