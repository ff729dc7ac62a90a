"""Admission webhooks: defaults, and refusals that the schema of one object alone cannot say.

What the CRDs' own rules say (patterns, one node effect, ``maxUnavailable``, reserved resources, frozen specs) is not said twice:
the API server checks it before it asks a validating webhook, and goes on to when none answers.
"""
