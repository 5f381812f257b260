"""Errors and the local cache of the Hugging Face hub, for models, prompts and uploads."""
