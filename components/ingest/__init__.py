"""Turns videos into frame stores: sources, decoding in child processes, shards, continuation, publication."""
