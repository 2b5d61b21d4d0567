"""For all tests: hypothesis times nothing, since a busy machine is not a bug, and prints how to replay."""

from hypothesis import HealthCheck, settings

settings.register_profile("quorumcache", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("quorumcache")
