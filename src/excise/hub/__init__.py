"""Uploads saved models and adapters to the Hugging Face hub."""
