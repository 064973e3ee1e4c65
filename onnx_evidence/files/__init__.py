"""Files in folders that others can write to: opened without following links, read within bounds."""
