"""Videos to frame stores: sources, decoding under isolation, shards, resumption and publication."""
