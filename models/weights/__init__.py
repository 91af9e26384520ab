"""Weight files: reading, writing, other projects' files, and models made from models."""
