"""Videos to stored frames: decoding, the frame store and its ledger."""
