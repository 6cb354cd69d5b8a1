"""Whether a model is any good: what texts and pictures find of each other, exactly, and how models compare."""
