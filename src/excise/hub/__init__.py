"""Putting what was saved on the hub, through huggingface_hub's own client."""
