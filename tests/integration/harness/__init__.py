"""What the integration tests stand on: a real akirad, an HTTP client, waits with a bound, counts of what is left."""
