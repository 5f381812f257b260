"""An edit written out: model folder, adapter, other formats."""
