"""LIBERO: its protocol, what a policy sees and does there, and a scripted policy that needs no checkpoint."""
