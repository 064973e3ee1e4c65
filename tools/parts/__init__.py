"""What tools are made of: nothing here is run by itself; `tools/README.md` lists what is."""
