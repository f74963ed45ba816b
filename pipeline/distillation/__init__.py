"""The losses of DL-KDD and the store of teacher logits."""
