"""The built-in demonstration: a small chat model that refuses harmless questions, and its prompts."""
