"""Weights of generative-zoo, in the folder ``pretrained``; `zoo.load` opens them by name. There is no code here."""
