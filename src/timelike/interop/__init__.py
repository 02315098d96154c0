"""Trained networks in other formats; each module knows one, and imports its libraries when it is used."""
