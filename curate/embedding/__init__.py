"""Texts to vectors, vectors kept on disk, and exact search among them; torch is imported only where texts are encoded."""
