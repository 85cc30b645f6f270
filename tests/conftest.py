"""How hypothesis runs here: without a deadline, as machines that test are shared."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "cbtfs", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("cbtfs")
