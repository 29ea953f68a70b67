"""Behaviour and laws of Fathom; the folders mirror fathom/."""
