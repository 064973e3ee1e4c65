"""How much a model computes, counted from its file alone before anything is computed; see `work`."""
