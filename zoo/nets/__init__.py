"""Networks: tensors in, tensors out; no objective, no files."""
