"""The rules of check.py by what they look at; each is a function from a View to its cases."""
