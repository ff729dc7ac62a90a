"""Generated from the protos beside this package; see hack/generate_protos.py."""
