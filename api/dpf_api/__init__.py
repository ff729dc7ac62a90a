"""The API of DPF: one module per kind, as models of what is stored and as the source of the CRDs.

Nothing is imported here: a process imports the kinds it works with and pays for no others.
"""
