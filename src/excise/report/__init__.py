"""Descriptions of an edit for people: model card, figures, plots."""
