"""What has a name and versions: parameter sets, datasets, models, access tokens, and the HTTP client for them."""
