"""What is written about an edit for people: model card, tables, plots."""
