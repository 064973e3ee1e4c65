"""Taking in a deployed file: whatever it looks like outside, a classifier of NCHW pictures with logits inside."""
