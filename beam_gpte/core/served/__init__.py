"""Models behind an HTTP endpoint: configuration, requests, retries, and what they share."""
