"""Pictures from lists of addresses: fetched, resized and packed into shards as img2dataset does."""
