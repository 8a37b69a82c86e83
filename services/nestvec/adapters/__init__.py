"""One outside system each: FAISS, Redis, encoders. Every one passes its port's contract suite."""
